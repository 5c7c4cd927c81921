package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"
)

// colour is an ANSI colour.
type colour string

const (
	plain  colour = ""
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
	bold   colour = "1"
	faint  colour = "2"
)

func (e *environment) paint(on bool, c colour, s string) string {
	if !on || c == plain || s == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// cell is one field of a table.
type cell struct {
	text   string
	colour colour
}

func text(s string) cell { return cell{text: s} }

// verdict colours the words that conditions and states use.
func verdict(s string) cell {
	switch s {
	case "True", "Up", "Running":
		return cell{s, green}
	case "False", "Down":
		return cell{s, red}
	case "Unknown", "Pending", "Expired", "Used up":
		return cell{s, yellow}
	}
	return cell{text: s}
}

// table prints rows under a header, if there is one, the columns aligned. Under
// a header an empty field is shown as "-", but for the last column.
func (e *environment) table(w io.Writer, on bool, indent string, header []string, rows [][]cell) {
	headed := header != nil
	if headed {
		h := make([]cell, len(header))
		for i, s := range header {
			h[i] = cell{s, bold}
		}
		rows = append([][]cell{h}, rows...)
	}
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		b.WriteString(indent)
		for i, c := range r {
			if headed && c.text == "" && i < len(r)-1 {
				c = cell{"-", faint}
			}
			b.WriteString(e.paint(on, c.colour, c.text))
			if i < len(r)-1 {
				b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(c.text)+3))
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func printYAML(w io.Writer, v any) error {
	b, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// age is the time since t as kubectl shows it.
func age(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration.HumanDuration(now.Sub(t))
}

func roundTrip(micros int64) string {
	switch {
	case micros == 0:
		return ""
	case micros < 1000:
		return fmt.Sprintf("%dµs", micros)
	case micros < 100_000:
		return fmt.Sprintf("%.1fms", float64(micros)/1000)
	}
	return fmt.Sprintf("%dms", micros/1000)
}
