package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// status is what an event says of its step.
type status string

const (
	started  status = "start"
	observed status = "info"
	passed   status = "pass"
	failed   status = "fail"
)

// event is one line of --json.
type event struct {
	Time    time.Time `json:"time"`
	Step    string    `json:"step"`
	Status  status    `json:"status"`
	Message string    `json:"message"`
	// Seconds that the step took, with pass and fail.
	Seconds float64 `json:"seconds,omitempty"`
	// Data holds what a program may want to use.
	Data any `json:"data,omitempty"`
}

// teller tells what happens, to a person or as JSON.
type teller struct {
	out    io.Writer
	json   bool
	colour bool

	mu   sync.Mutex
	step string
	n    int
	at   time.Time
}

func (t *teller) emit(s status, message string, data any) {
	if t.json {
		e := event{Time: time.Now().UTC(), Step: t.step, Status: s, Message: message, Data: data}
		if s == passed || s == failed {
			e.Seconds = time.Since(t.at).Round(time.Millisecond).Seconds()
		}
		b, err := json.Marshal(e)
		if err != nil {
			b = fmt.Appendf(nil, `{"step":%q,"status":"fail","message":%q}`, t.step, err)
		}
		fmt.Fprintf(t.out, "%s\n", b)
		return
	}
	switch s {
	case started:
		fmt.Fprintf(t.out, "\n%s\n", t.paint("1", fmt.Sprintf("%d. %s", t.n, message)))
	case observed:
		fmt.Fprintf(t.out, "   %s\n", indented(message))
	case passed:
		fmt.Fprintf(t.out, "   %s %s (%s)\n", t.paint("32", "PASS"), indented(message), seconds(time.Since(t.at)))
	case failed:
		fmt.Fprintf(t.out, "   %s %s (%s)\n", t.paint("31", "FAIL"), indented(message), seconds(time.Since(t.at)))
	}
}

// indented keeps the further lines of a text under its step.
func indented(s string) string {
	return strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n   ")
}

func (t *teller) paint(c, s string) string {
	if !t.colour {
		return s
	}
	return "\x1b[" + c + "m" + s + "\x1b[0m"
}

// begin starts a step.
func (t *teller) begin(id, title string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.step, t.at = id, time.Now()
	t.n++
	t.emit(started, title, nil)
}

// say tells what was observed.
func (t *teller) say(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.emit(observed, fmt.Sprintf(format, args...), nil)
}

// sayData is say with something for programs.
func (t *teller) sayData(data any, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.emit(observed, fmt.Sprintf(format, args...), data)
}

// end finishes the step.
func (t *teller) end(err error, summary string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.emit(failed, err.Error(), nil)
		return
	}
	t.emit(passed, summary, nil)
}

// finish tells the outcome of the whole.
func (t *teller) finish(outcome status, text string, began time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.step, t.at = "summary", began
	if t.json {
		t.emit(outcome, text, nil)
		return
	}
	word := t.paint("32", "PASS")
	if outcome == failed {
		word = t.paint("31", "FAIL")
	}
	fmt.Fprintf(t.out, "\n%s %s (%s)\n", word, text, seconds(time.Since(began)))
}

// plain prints a line for people, and an event of the step for programs.
func (t *teller) plain(step, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.json {
		fmt.Fprintf(t.out, format+"\n", args...)
		return
	}
	old := t.step
	t.step = step
	t.emit(observed, strings.TrimSpace(fmt.Sprintf(format, args...)), nil)
	t.step = old
}

func seconds(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.1f s", d.Seconds())
}
