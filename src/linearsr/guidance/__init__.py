"""What is in a picture, and how the network is told: taggers, and the kinds of guidance."""
