"""The verbs of the V1 protocol.

cookies    what servers want sent back to them
sender     a request to an index or a registry, with what it asks for
names      ids, repositories and endpoints, and what of them is refused
answers    documents of bounded size, and what headers say of an image
index      what an index is asked for and told
images     images of a registry, their layers apart
layers     layers on their way in
pushing    images on their way out
client     `V1Client`, the face of these
"""
