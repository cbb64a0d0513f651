"""Operations: pull, push, search, login and the rest, as plain functions.

access        what operations share: connections, tokens, endpoints
versions      clients of either protocol, and what V1 has no form of
content       what the store has of an image
selection     what of an image is meant
companions    what belongs to an image, and comes along on request
pull push     moving images
copy delete   in registries, not through the store
repositories  catalog, referrers
schema1       images of schema 1 as OCI images
convert       Docker's images as OCI's and the other way round
archives      save, load, and push from an archive
listing       tags, images, inspect, tag
search login
"""
