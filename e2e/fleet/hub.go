package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// hubProcess is a real hub in a process of its own.
type hubProcess struct {
	process
	program []string
	dir     string
	agents  string
	api     string
	metrics string
	// beside leads to an API server in another process; empty: the hub has its own.
	beside string
	// profiles is where those of the program are, which then is this one (see
	// profiledHub); marks is how many were begun and ended since it was started.
	profiles string
	marks    int
}

func newHub(program []string, dir string) (*hubProcess, error) {
	h := &hubProcess{program: program, dir: dir}
	for _, addr := range []*string{&h.agents, &h.api, &h.metrics} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		*addr = l.Addr().String()
		defer l.Close() // held until all are chosen
	}
	return h, nil
}

func (h *hubProcess) kubeconfig() string { return cmp.Or(h.beside, filepath.Join(h.dir, "kubeconfig")) }

// start returns when the hub is ready, and how long that took.
func (h *hubProcess) start(ctx context.Context) (time.Duration, error) {
	log := filepath.Join(h.dir, "..", "hub.log")
	args := []string{"--data", h.dir, "--listen", h.agents, "--advertise", h.agents, "--metrics-listen", h.metrics}
	if h.beside != "" {
		args = append(args, "--kubeconfig", h.beside)
	} else {
		args = append(args, "--embedded", "--api-listen", h.api)
	}
	if h.profiles != "" { // what a process before this one counted
		if err := ignoreMissing(os.Remove(filepath.Join(h.profiles, marksFile))); err != nil {
			return 0, err
		}
	}
	began := time.Now()
	if err := h.process.start(h.program, args, log); err != nil {
		return 0, err
	}
	h.marks = 0
	err := h.await(ctx, "the hub", log, func() (bool, error) {
		resp, err := http.Get("http://" + h.metrics + "/readyz") //nolint:noctx // loopback, and polled
		if err != nil {
			return false, nil
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK, nil
	})
	return time.Since(began), err
}

// mark begins or ends a profile, if there are any.
func (h *hubProcess) mark(ctx context.Context) error {
	if h.profiles == "" {
		return nil
	}
	h.marks++
	if err := h.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return err
	}
	return poll(ctx, time.Minute, time.Millisecond, "a profile has begun or ended", func() (bool, error) {
		b, err := os.ReadFile(filepath.Join(h.profiles, marksFile))
		return string(b) == strconv.Itoa(h.marks), ignoreMissing(err)
	})
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// sample is what a hub's metrics say.
type sample map[string]float64

func (h *hubProcess) sample(ctx context.Context) (sample, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+h.metrics+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := sample{}
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), " "); ok && !strings.HasPrefix(name, "#") {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out, nil
}

// cpu is the processor time that the process has used, to the nanosecond: the sum
// over its threads, none of which a Go program ends.
func (h *hubProcess) cpu() (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", h.pid()))
	if err != nil || len(files) == 0 {
		return 0, errors.Join(err, fmt.Errorf("process %d shows no processor time", h.pid()))
	}
	var sum time.Duration
	for _, f := range files {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return 0, err
		}
		n, err := strconv.ParseInt(strings.Fields(string(b))[0], 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// memory is the resident memory now, and the most it ever was since the peak was
// forgotten, in bytes.
func (h *hubProcess) memory() (now, peak int64, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.pid()))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		for name, v := range map[string]*int64{"VmRSS:": &now, "VmHWM:": &peak} {
			if kb, ok := strings.CutPrefix(line, name); ok {
				n, err := strconv.ParseInt(strings.Fields(kb)[0], 10, 64)
				if err != nil {
					return 0, 0, err
				}
				*v = n << 10
			}
		}
	}
	return now, peak, nil
}

func (h *hubProcess) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", h.pid()), []byte("5"), 0)
}

// quiet waits until the hub has nothing to do: less than a share of a core for a
// second.
func (h *hubProcess) quiet(ctx context.Context) error {
	const window, calm, share = 250 * time.Millisecond, 4, 0.08
	last, err := h.cpu()
	if err != nil {
		return err
	}
	seen, at := 0, time.Now()
	return poll(ctx, 5*time.Minute, window, "the hub is at rest", func() (bool, error) {
		now, err := h.cpu()
		if err != nil {
			return false, err
		}
		if float64(now-last) > share*float64(time.Since(at)) {
			seen = 0
		} else {
			seen++
		}
		last, at = now, time.Now()
		return seen >= calm, nil
	})
}

// poll asks until the answer is yes.
func poll(ctx context.Context, timeout, every time.Duration, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("waited %v, but not until %s", timeout, what))
	defer cancel()
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-t.C:
		}
	}
}
