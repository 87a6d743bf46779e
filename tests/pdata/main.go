// Pdata reads OTLP JSON from standard input, one TracesData object a line, with the OpenTelemetry Collector's own
// unmarshaler, and writes each as the protocol's binary form in hexadecimal, one a line.
package main

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"os"

	"go.opentelemetry.io/collector/pdata/ptrace"
)

func main() {
	if err := convert(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "pdata:", err)
		os.Exit(1)
	}
}

func convert(in io.Reader, out io.Writer) error {
	var unmarshaler ptrace.JSONUnmarshaler
	var marshaler ptrace.ProtoMarshaler
	lines := bufio.NewReader(in)
	for number := 1; ; number++ {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d does not end: %w", number, err)
		}
		traces, err := unmarshaler.UnmarshalTraces(bytes.TrimSuffix(line, []byte("\n")))
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		binary, err := marshaler.MarshalTraces(traces)
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		if _, err := fmt.Fprintln(out, hex.EncodeToString(binary)); err != nil {
			return err
		}
	}
}
