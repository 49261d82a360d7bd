"""The commands of `knit`, one module per noun; each is imported only when it is used."""
