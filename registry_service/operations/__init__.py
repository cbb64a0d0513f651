"""Operations: pull, push, search, login and the rest, as plain functions.

access      what operations share: connections, tokens, endpoints
content     what the store has of an image
pull push   moving images
listing     tags, images, inspect, tag
search login
"""
