"""The four ways to have a function called with items."""

import manyhands as mh

FACES = ["map", "compute", "stream", "submit"]


def run_with(face, function, items):
    """The results of a function for each item, by one of the four ways to get them."""
    if face == "map":
        return mh.map(function, items)
    if face == "compute":
        return mh.compute([mh.delayed(function)(item) for item in items])[0]
    if face == "stream":
        return list(mh.stream(function, items))
    return [future.result() for future in [mh.submit(function, item) for item in items]]
