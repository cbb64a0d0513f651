"""What operations do where a registry speaks V1.

source   a repository of V1, as images are read from it
pull     the chain of an image, as an OCI image in the store
look     what a chain says, and what it becomes where that is known
push     an image, as a chain of images
login    whether credentials are taken; accounts are made, too
sending  a chain of images on its way to a registry
relay    a layer of V1 on its way to a registry of V2
placed   where layers were put that came from V1
into_v2  copy from V1 to V2
into_v1  copy from V2, or from V1, to V1
copy     which copy it is
delete   tags taken away
"""
