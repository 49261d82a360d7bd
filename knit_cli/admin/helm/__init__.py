"""What `knit admin` gives to helm and learns from it: values and releases."""
