"""Operations: pull, push, search, login and the rest, as plain functions.

access      what operations share: connections, tokens, endpoints
content     what the store has of an image
selection   what of an image is meant
pull push   moving images
schema1     images of schema 1 as OCI images
convert     Docker's images as OCI's and the other way round
listing     tags, images, inspect, tag
search login
"""
