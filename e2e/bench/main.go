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
	fmt.Fprintln(os.Stderr, "starting three servers by hand and a federation of three members ...")
	p, err := startPlain(ctx, 3)
	if err != nil {
		return err
	}
	defer p.stop()
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
	lanes, err := connectAll(p, f)
	if err != nil {
		return err
	}
	if err := compareLanes(ctx, w, o, lanes); err != nil {
		return err
	}
	if err := compareDurable(ctx, w, o, p, f); err != nil {
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
		n, err := f.memory(proc.process)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%d MiB\n", proc.what, n>>20)
	}
	fmt.Fprintln(w)
	return nil
}

// The lanes of a comparison, in the order of connectAll.
const (
	laneLocal = iota
	lanePlainOne
	laneOne
	lanePlainTwo
	laneTwo
)

func connectAll(p *plain, f *federation) ([]lane, error) {
	var err error
	must := func(nc *nats.Conn, e error) *nats.Conn {
		if e != nil && err == nil {
			err = e
		}
		return nc
	}
	subject := "bench.x"
	lanes := []lane{
		laneLocal:    {"one server", must(p.connect(0)), must(p.connect(0)), subject, subject},
		lanePlainOne: {"plain leaf", must(p.connect(0)), must(p.connect(1)), subject, subject},
		laneOne:      {"one link", must(f.connect(origin)), must(f.connect(near)), subject, subject},
		lanePlainTwo: {"two plain leaves", must(p.connect(0)), must(p.connect(2)), subject, subject},
		laneTwo:      {"two hops", must(f.connect(origin)), must(f.connect(far)), subject, subject},
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
		rates, p50, p99 := make([][]float64, len(lanes)), make([][]float64, len(lanes)), make([][]float64, len(lanes))
		for round := range o.rounds {
			fmt.Fprintf(os.Stderr, "%d B, round %d of %d ...\n", size, round+1, o.rounds)
			for i, l := range lanes {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				rate, err := l.throughput(o.messages, size)
				if err != nil {
					return err
				}
				times, err := l.latency(o.singles, size)
				if err != nil {
					return err
				}
				rates[i] = append(rates[i], rate)
				p50[i] = append(p50[i], float64(percentile(times, 0.50)))
				p99[i] = append(p99[i], float64(percentile(times, 0.99)))
			}
		}
		fmt.Fprintf(w, "events of %d B\tmsg/s\tof one server\tof plain\tp50\tp99\n", size)
		for i, l := range lanes {
			of := "-"
			switch i {
			case laneOne, laneTwo:
				of = fmt.Sprintf("%.2f", ratio(rates[i], rates[i-1]))
			}
			fmt.Fprintf(w, "  %s\t%.0f\t%.2f\t%s\t%v\t%v\n", l.name, median(rates[i]), ratio(rates[i], rates[laneLocal]), of,
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

func compareDurable(ctx context.Context, w *tabwriter.Writer, o options, p *plain, f *federation) error {
	type end struct {
		name string
		from *nats.Conn
		to   jetstream.Stream
	}
	var ends [2]end
	for i, connect := range []func(int) (*nats.Conn, error){
		p.connect,
		func(i int) (*nats.Conn, error) { return f.connect([]string{origin, near}[i]) },
	} {
		a, err := connect(0)
		if err != nil {
			return err
		}
		defer a.Close()
		b, err := connect(1)
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
		if i == 0 {
			if err := p.durable(ctx, ja, jb, "durable", "durable.>"); err != nil {
				return err
			}
		}
		ends[i] = end{[]string{"by hand", "bridge"}[i], a, nil}
		if ends[i].to, err = jb.Stream(ctx, "durable"); err != nil {
			return err
		}
	}
	for _, size := range []int{128, 1024} {
		var rates [2][]float64
		for round := range o.rounds {
			fmt.Fprintf(os.Stderr, "durable %d B, round %d of %d ...\n", size, round+1, o.rounds)
			for i, e := range ends {
				rate, err := storeAndCopy(ctx, e.from, e.to, "durable.x", o.messages/2, size)
				if err != nil {
					return fmt.Errorf("durable, %s: %w", e.name, err)
				}
				rates[i] = append(rates[i], rate)
			}
		}
		fmt.Fprintf(w, "durable copies of %d B\tmsg/s\tof by hand\n", size)
		for i, e := range ends {
			fmt.Fprintf(w, "  %s\t%.0f\t%.2f\n", e.name, median(rates[i]), ratio(rates[i], rates[0]))
		}
		fmt.Fprintln(w)
	}
	return nil
}
