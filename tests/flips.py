"""Files of which one bit has flipped."""


def flip_bits(content, places, stride=3):
    """The bytes `content` with one bit turned, at each of `places` in turn; which bit moves on by `stride`."""
    for turn, place in enumerate(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << turn * stride % 8
        yield bytes(flipped)
