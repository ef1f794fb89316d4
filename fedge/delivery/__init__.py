"""How a model becomes a release, reaches a gateway, and is taken up or refused there.

Central side: `keys`, `repository`, `candidate`. Gateway side: `client`, `store`,
`slots`, `journal`, `installer`, `switch`. The gateway side loads no numerical library.
"""
