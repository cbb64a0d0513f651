"""The verbs.

sender     a request to one registry, with what it asks for
answers    what headers say of content
paging     lists that come in pages
upload     blobs on their way out
blob       blobs on their way in
referrers  lists of referrers, kept where a registry keeps none
turns      who changes such a list, when several would
v2         `V2Client`, the V2 protocol
search     `SearchClient`
source     a repository as a source for the store
foreign    blobs from where their descriptor says
"""
