module knit.invalid/tests/charts/prometheus-operator

go 1.24

require github.com/prometheus-operator/prometheus-operator v0.76.2
