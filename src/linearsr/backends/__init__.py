"""Other forms of a model: started from SANA's weights, in 8 bits."""
