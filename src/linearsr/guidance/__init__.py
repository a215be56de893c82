"""Taggers, which say what is in a picture, and the kinds of guidance, which tell the network."""
