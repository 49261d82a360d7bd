"""`knit dev`: a whole knit on this machine, in one state folder. A composition root."""
