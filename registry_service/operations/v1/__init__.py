"""What operations do where a registry speaks V1.

push     an image, as a chain of images
login    whether credentials are taken; accounts are made, too
"""
