// Command promql parses PromQL expressions with Prometheus' own parser: one JSON
// string a line on standard input. For each it writes a line with the names of the
// metrics in it. It fails if one of them is not right. It is a module of its own, so
// that what Prometheus needs does not move the versions of the other tools.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/prometheus/prometheus/promql/parser"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "promql:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	lines, results := bufio.NewScanner(in), json.NewEncoder(out)
	p := parser.NewParser(parser.Options{})
	for lines.Scan() {
		var text string
		if err := json.Unmarshal(lines.Bytes(), &text); err != nil {
			return err
		}
		expr, err := p.ParseExpr(text)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		names := []string{}
		parser.Inspect(expr, func(n parser.Node, _ []parser.Node) error {
			if v, ok := n.(*parser.VectorSelector); ok {
				names = append(names, v.Name)
			}
			return nil
		})
		if err := results.Encode(names); err != nil {
			return err
		}
	}
	return lines.Err()
}
