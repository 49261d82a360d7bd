module knit/pod

go 1.24
