// Command sites measures a region of edge sites: real brokers of many sites with links
// to the broker of one parent, and one region beyond it, all in this process and as a
// plan of the planner has them. It compares sites that have links of their own with
// sites that share them (links: Separate and Shared of a HubAndSpoke rule).
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

	"github.com/sealane/sealane/api/v1alpha1"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	sites := flag.Int("sites", 200, "sites at the parent")
	subjects := flag.Int("subjects", 10, "subjects that flow up, and as many that flow down")
	flag.Parse()
	err := run(ctx, *sites, *subjects)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sites:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, sites, subjects int) error {
	kinds := []v1alpha1.SpokeLinks{v1alpha1.SpokeLinksSeparate, v1alpha1.SpokeLinksShared}
	var all []figures
	for _, links := range kinds {
		fmt.Fprintf(os.Stderr, "%d sites, %d subjects each way, links %s ...\n", sites, subjects, links)
		f, err := measure(ctx, links, sites, subjects)
		if err != nil {
			return fmt.Errorf("links %s: %w", links, err)
		}
		all = append(all, f)
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%s %s/%s, %d cores; %d sites, %d subjects each way\n\n\t%s\t%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(),
		sites, subjects, kinds[0], kinds[1])
	for _, row := range []struct {
		name string
		of   func(figures) string
	}{
		{"all links up, and the first event at all sites", func(f figures) string { return seconds(f.up) }},
		{"memory of a site's links, both ends", func(f figures) string { return fmt.Sprintf("%d KiB", f.memory/int64(sites)>>10) }},
		{"one site more, to its first event", func(f figures) string { return seconds(f.one) }},
		{"a new subject, to its first event at all sites", func(f figures) string { return seconds(f.subject) }},
		{"accounts at the parent", func(f figures) string { return fmt.Sprint(f.accounts) }},
		{"claims at the parent", func(f figures) string { return kib(f.claims) }},
		{"claims beyond it", func(f figures) string { return kib(f.beyond) }},
		{"claims at the parent with twice as many sites", func(f figures) string { return kib(f.twice) }},
	} {
		fmt.Fprintf(w, "%s", row.name)
		for _, f := range all {
			fmt.Fprintf(w, "\t%s", row.of(f))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// figures are what one kind of links costs.
type figures struct {
	up, one, subject      time.Duration
	memory                int64
	accounts              int
	claims, beyond, twice int
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func kib(n int) string { return fmt.Sprintf("%.1f KiB", float64(n)/1024) }

func measure(ctx context.Context, links v1alpha1.SpokeLinks, sites, subjects int) (f figures, err error) {
	r, err := newRegion(links, subjects)
	if err != nil {
		return f, err
	}
	defer r.stop()
	if err := r.start(ctx, sites+1); err != nil { // the last one waits
		return f, err
	}
	before := heap()
	began := time.Now()
	if err := r.apply(ctx, sites); err != nil {
		return f, err
	}
	if err := r.heard(ctx, "down.0.x", sites); err != nil {
		return f, err
	}
	f.up = time.Since(began)
	f.memory = heap() - before
	f.accounts, f.claims = r.claims(parent)
	_, f.beyond = r.claims(beyond)

	began = time.Now()
	if err := r.apply(ctx, sites+1); err != nil {
		return f, err
	}
	if err := r.heard(ctx, "down.0.x", sites+1); err != nil {
		return f, err
	}
	f.one = time.Since(began)

	began = time.Now()
	r.subjects++
	if err := r.apply(ctx, sites+1); err != nil {
		return f, err
	}
	if err := r.heard(ctx, fmt.Sprintf("down.%d.x", subjects), sites+1); err != nil {
		return f, err
	}
	f.subject = time.Since(began)
	r.subjects--
	f.twice, err = r.planned(2 * sites)
	return f, err
}

// heap is what is in use after all that can be freed was.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}
