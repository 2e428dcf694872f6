//go:build tools

// Package tools names what is built and applied from these modules, so that
// `go mod tidy` keeps their dependencies in go.sum.
package tools

import _ "sigs.k8s.io/gateway-api/conformance"
