module knit/knit-pod

go 1.24
