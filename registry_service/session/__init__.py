"""The verbs.

sender     a request to one registry, with what it asks for
answers    what headers say of content
paging     lists that come in pages
upload     blobs on their way out
streaming  blobs on their way out of which neither size nor digest is known
outgoing   what a caller hands over to be sent
blob       blobs on their way in
reading    the same as files that verify
referrers  lists of referrers, kept where a registry keeps none
turns      who changes such a list, when several would
v2         `V2Client`, the V2 protocol
search     `SearchClient`
v1/        `V1Client`, the V1 protocol
session    `Session`, the face of these
source     a repository as a source for the store
foreign    blobs from where their descriptor says
"""
