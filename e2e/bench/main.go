// Command bench measures a federation on this machine against what one would
// write by hand with NATS alone, in the same run, and prints a table. It sends
// to loopback only and ends by itself.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == plainServer {
		if err := runPlainServer(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var o options
	flag.StringVar(&o.sealane, "sealane", "bin/sealane", "the sealane program, with sealane-hub and sealane-agent beside it")
	flag.IntVar(&o.rounds, "rounds", 5, "how often each figure is measured; the median is printed")
	flag.IntVar(&o.messages, "messages", 200_000, "messages of a throughput measurement")
	flag.IntVar(&o.singles, "singles", 3_000, "messages of a latency measurement")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop is called
	}
}

type options struct {
	sealane                   string
	rounds, messages, singles int
}

func run(ctx context.Context, o options) error {
	fmt.Fprintln(os.Stderr, "starting twice three servers by hand and a federation of three members ...")
	p, err := startPlain(ctx, 3, false)
	if err != nil {
		return err
	}
	defer p.stop()
	secure, err := startPlain(ctx, 3, true)
	if err != nil {
		return err
	}
	defer secure.stop()
	f, err := startFederation(ctx, o.sealane)
	if err != nil {
		return err
	}
	defer f.stop()
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s %s/%s, %d cores, %d rounds, medians\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), o.rounds)
	if err := footprint(w, f); err != nil {
		return err
	}
	lanes, err := connectAll(p, secure, f)
	if err != nil {
		return err
	}
	if err := compareLanes(ctx, w, o, lanes); err != nil {
		return err
	}
	if err := compareDurable(ctx, w, o, p, secure, f); err != nil {
		return err
	}
	return w.Flush()
}

func footprint(w *tabwriter.Writer, f *federation) error {
	fmt.Fprintf(w, "sealane demo, start to Ready\t%.1f s\n", f.ready.Seconds())
	for _, proc := range []struct{ what, process string }{
		{"idle hub with embedded API, resident", "hub"},
		{"idle agent with its broker, resident", "members/" + far},
	} {
		pid, err := f.pid(proc.process)
		if err != nil {
			return err
		}
		n, err := residentMemory(pid)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%d MiB\n", proc.what, n>>20)
	}
	fmt.Fprintln(w)
	return nil
}

// The lanes of a comparison, in the order of connectAll. What one or two leaf
// connections cost by hand, what TLS adds, and what the federation has.
const (
	laneLocal = iota
	lanePlainOne
	laneTLSOne
	laneOne
	lanePlainTwo
	laneTLSTwo
	laneTwo
)

func connectAll(p, secure *plain, f *federation) ([]lane, error) {
	var err error
	check := func(e error) {
		if e != nil && err == nil {
			err = e
		}
	}
	byHand := func(name string, p *plain, hops int) lane {
		l := lane{name: name, subject: "bench.x"}
		var e error
		l.from, e = p.connect(0)
		check(e)
		l.to, e = p.connect(hops)
		check(e)
		for _, c := range p.procs[:hops+1] {
			l.servers = append(l.servers, c.Process.Pid)
		}
		return l
	}
	federated := func(name string, members ...string) lane {
		l := lane{name: name, subject: "bench.x"}
		var e error
		l.from, e = f.connect(members[0])
		check(e)
		l.to, e = f.connect(members[len(members)-1])
		check(e)
		for _, m := range members {
			pid, e := f.pid("members/" + m)
			check(e)
			l.servers = append(l.servers, pid)
		}
		return l
	}
	lanes := []lane{
		laneLocal:    byHand("one server", p, 0),
		lanePlainOne: byHand("plain leaf", p, 1),
		laneTLSOne:   byHand("plain leaf, TLS", secure, 1),
		laneOne:      federated("one link", origin, near),
		lanePlainTwo: byHand("two plain leaves", p, 2),
		laneTLSTwo:   byHand("two plain leaves, TLS", secure, 2),
		laneTwo:      federated("two hops", origin, near, far),
	}
	if err != nil {
		return nil, err
	}
	for _, l := range lanes {
		if err := l.ready(20 * time.Second); err != nil {
			return nil, err
		}
	}
	return lanes, nil
}

func compareLanes(ctx context.Context, w *tabwriter.Writer, o options, lanes []lane) error {
	for _, size := range []int{128, 1024} {
		n := len(lanes)
		rates, cpu, p50, p99 := make([][]float64, n), make([][]float64, n), make([][]float64, n), make([][]float64, n)
		for round := range o.rounds {
			fmt.Fprintf(os.Stderr, "%d B, round %d of %d ...\n", size, round+1, o.rounds)
			// Lanes that are compared stand side by side, and no lane always
			// comes after the same one.
			for k := range n {
				i := (k + round) % n
				if round%2 == 1 {
					i = n - 1 - i
				}
				if ctx.Err() != nil {
					return ctx.Err()
				}
				used, err := cpuTime(lanes[i].servers)
				if err != nil {
					return err
				}
				rate, err := lanes[i].throughput(o.messages, size)
				if err != nil {
					return err
				}
				now, err := cpuTime(lanes[i].servers)
				if err != nil {
					return err
				}
				times, err := lanes[i].latency(o.singles, size)
				if err != nil {
					return err
				}
				rates[i] = append(rates[i], rate)
				cpu[i] = append(cpu[i], float64(now-used)/float64(o.messages))
				p50[i] = append(p50[i], float64(percentile(times, 0.50)))
				p99[i] = append(p99[i], float64(percentile(times, 0.99)))
			}
		}
		fmt.Fprintf(w, "events of %d B\tmsg/s\tof one server\tof plain\tof plain with TLS\tservers' CPU a message\tp50\tp99\n", size)
		for i, l := range lanes {
			ofPlain, ofTLS := "-", "-"
			switch i {
			case laneTLSOne, laneTLSTwo:
				ofPlain = fmt.Sprintf("%.2f", ratio(rates[i], rates[i-1]))
			case laneOne, laneTwo:
				ofPlain, ofTLS = fmt.Sprintf("%.2f", ratio(rates[i], rates[i-2])), fmt.Sprintf("%.2f", ratio(rates[i], rates[i-1]))
			}
			fmt.Fprintf(w, "  %s\t%.0f\t%.2f\t%s\t%s\t%.2fµs\t%v\t%v\n", l.name, median(rates[i]), ratio(rates[i], rates[laneLocal]), ofPlain, ofTLS,
				mean(cpu[i])/float64(time.Microsecond),
				time.Duration(median(p50[i])).Round(time.Microsecond), time.Duration(median(p99[i])).Round(time.Microsecond))
		}
		fmt.Fprintln(w)
	}
	return nil
}

// ratio is the median of the rounds' ratios: what disturbs the machine in a
// round disturbs both.
func ratio(a, b []float64) float64 {
	r := make([]float64, len(a))
	for i := range a {
		r[i] = a[i] / b[i]
	}
	return median(r)
}

func compareDurable(ctx context.Context, w *tabwriter.Writer, o options, p, secure *plain, f *federation) error {
	type end struct {
		name string
		from *nats.Conn
		to   jetstream.Stream
		// servers are the two processes at the ends.
		servers []int
	}
	var ends []end
	for _, e := range []struct {
		name    string
		byHand  *plain
		connect func(int) (*nats.Conn, error)
	}{
		{"by hand", p, p.connect},
		{"by hand, TLS", secure, secure.connect},
		{"bridge", nil, func(i int) (*nats.Conn, error) { return f.connect([]string{origin, near}[i]) }},
	} {
		a, err := e.connect(0)
		if err != nil {
			return err
		}
		defer a.Close()
		b, err := e.connect(1)
		if err != nil {
			return err
		}
		defer b.Close()
		ja, err := jetstream.New(a)
		if err != nil {
			return err
		}
		jb, err := jetstream.New(b)
		if err != nil {
			return err
		}
		if e.byHand != nil {
			if err := e.byHand.durable(ctx, ja, jb, "durable", "durable.>"); err != nil {
				return err
			}
		}
		to, err := jb.Stream(ctx, "durable")
		if err != nil {
			return err
		}
		var servers []int
		for i, member := range []string{origin, near} {
			if e.byHand != nil {
				servers = append(servers, e.byHand.procs[i].Process.Pid)
				continue
			}
			pid, err := f.pid("members/" + member)
			if err != nil {
				return err
			}
			servers = append(servers, pid)
		}
		ends = append(ends, end{e.name, a, to, servers})
	}
	for _, size := range []int{128, 1024} {
		rates, cpu := make([][]float64, len(ends)), make([][]float64, len(ends))
		for round := range o.rounds {
			fmt.Fprintf(os.Stderr, "durable %d B, round %d of %d ...\n", size, round+1, o.rounds)
			for k := range ends {
				i := (k + round) % len(ends)
				if round%2 == 1 {
					i = len(ends) - 1 - i
				}
				used, err := cpuTime(ends[i].servers)
				if err != nil {
					return err
				}
				rate, err := storeAndCopy(ctx, ends[i].from, ends[i].to, "durable.x", o.messages/2, size)
				if err != nil {
					return fmt.Errorf("durable, %s: %w", ends[i].name, err)
				}
				now, err := cpuTime(ends[i].servers)
				if err != nil {
					return err
				}
				rates[i] = append(rates[i], rate)
				cpu[i] = append(cpu[i], float64(now-used)/float64(o.messages/2))
			}
		}
		fmt.Fprintf(w, "durable copies of %d B\tmsg/s\tof by hand\tof by hand with TLS\tservers' CPU a message\n", size)
		for i, e := range ends {
			fmt.Fprintf(w, "  %s\t%.0f\t%.2f\t%.2f\t%.2fµs\n", e.name, median(rates[i]), ratio(rates[i], rates[0]), ratio(rates[i], rates[1]), mean(cpu[i])/float64(time.Microsecond))
		}
		fmt.Fprintln(w)
	}
	return nil
}
