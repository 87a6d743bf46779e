//go:build tools

// Package tools makes Jaeger's program a dependency of this module, so that go.sum covers all it is built from.
package tools

import _ "github.com/jaegertracing/jaeger/cmd/jaeger"
