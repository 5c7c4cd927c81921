package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"
)

// report prints what was measured.
type report struct {
	w     *tabwriter.Writer
	empty int64 // resident memory of the hub without members
	row   row
}

// row is one federation of several that are compared.
type row struct {
	size
	links           int
	state, resident float64 // KiB a member, and MiB in all
	share           float64 // KiB a member of what is resident
	stream, bridge  *changes
	storm           *storms
}

// compare prints how the figures grow.
func compare(w *tabwriter.Writer, rows []row) error {
	fmt.Fprint(w, "\nmembers\tbridges\tlinks\tstreams\tstate of each\tresident\tof each\ta stream: all have it\tCPU of each\ta bridge: compiled\tall have it\tCPU of each\tall connect\n")
	for _, r := range rows {
		fmt.Fprintf(w, "%d\t%d\t%d\t%d\t%.1f KiB\t%.0f MiB\t%.0f KiB", r.members, r.bridges(), r.links, r.streams, r.state, r.resident, r.share)
		stream, bridge := r.stream, r.bridge
		if stream == nil {
			stream = &changes{}
		}
		if bridge == nil {
			bridge = &changes{}
		}
		all := func(c *changes) {
			fmt.Fprintf(w, "\t%s, max %s\t%s", ms(percentile(c.sent, 0.5)), ms(percentile(c.sent, 1)), us(c.cpu))
		}
		all(stream)
		fmt.Fprintf(w, "\t%s", ms(percentile(bridge.compile, 0.5)))
		all(bridge)
		if r.storm != nil {
			fmt.Fprintf(w, "\t%s", ms(percentile(r.storm.took, 0.5)))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func (r *report) title(format string, args ...any) {
	fmt.Fprintf(r.w, "\n"+format+"\n", args...)
}

func (r *report) line(what, format string, args ...any) {
	fmt.Fprintf(r.w, "  %s\t"+format+"\n", append([]any{what}, args...)...)
}

func mib(n int64) float64 { return float64(n) / (1 << 20) }

func ms(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }

func us(d time.Duration) string { return fmt.Sprintf("%.0f µs", float64(d)/float64(time.Microsecond)) }

// spread is the median, the 99th percentile and the most.
func spread(d []time.Duration) string {
	return fmt.Sprintf("%s, p99 %s, max %s", ms(percentile(d, 0.5)), ms(percentile(d, 0.99)), ms(percentile(d, 1)))
}

func (r *report) changes(what string, c *changes) {
	r.line(what, "%d members, median, load %s", c.members, load())
	r.line("  until the last has it", "%s from the write; %s from its answer", spread(c.sent), spread(c.stored))
	r.line("  of that, before and after the plan is published", "gather %s, compile %s; then %s", ms(percentile(c.gather, 0.5)), ms(percentile(c.compile, 0.5)), spread(c.published))
	r.line("  hub CPU for each member", "%s until the last has it, %s until it is at rest, with all statuses", us(c.cpu), us(c.all))
	r.line("  for each member", "%.0f B sent, %.2f statuses written", c.bytes, c.writes)
}

func (r *report) storms(what string, s *storms) {
	r.line(what, "%d times, median, load %s", len(s.took), load())
	r.line("  until the last is in sync", "%s; answered %s", spread(s.took), spread(s.welcomed))
	if len(s.start) > 0 {
		r.line("  hub ready after", "%s", spread(s.start))
	}
	r.line("  hub CPU for each member", "%s", us(percentile(s.cpu, 0.5)))
	r.line("  for each member", "%.0f B of state; on the wire %.0f B to it, %.0f B from it", s.payload, s.down, s.up)
	r.line("  left without its state", "%d", s.without)
}

// figures measures what is wanted.
func (b *bench) figures(ctx context.Context, o options, r *report) error {
	all, _ := b.size.names()
	series := []struct {
		name, what string
		rounds     int
		members    []string
		write      func(int) error
	}{
		{"stream", "a stream that is everywhere changes", o.changes, all, b.changeStream(ctx)},
		{"bridge", "a bridge to everywhere changes", o.changes, all, b.changeBridge(ctx, "everyone")},
		{"pair", "a bridge between two members changes", o.singles, []string{edgeName(0), regionName(0)}, b.changeBridge(ctx, "pair")},
	}
	if o.wants("rest") {
		if err := b.atRest(ctx, o, r, "in memory at rest, after the first start"); err != nil {
			return err
		}
	}
	if err := b.hub.forgetPeak(); err != nil {
		return err
	}
	for _, s := range series {
		if !o.wants(s.name) {
			continue
		}
		b.log("%d members: %s ...", b.size.members, s.what)
		c, err := b.change(ctx, s.rounds, s.members, s.write)
		if err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		switch s.name {
		case "stream":
			r.row.stream = c
		case "bridge":
			r.row.bridge = c
		}
		r.changes(s.what, c)
		if err := b.peak(r); err != nil {
			return err
		}
	}
	if err := b.settle(ctx); err != nil {
		return err
	}
	for _, s := range []struct {
		name, what     string
		rounds         int
		empty, restart bool
	}{
		{"storm", "all connect at once, and hold nothing", o.storms, true, false},
		{"storm", "all connect at once, and hold what they shall", o.storms, false, false},
		{"kill", "the hub is killed, and all connect again at once", o.kills, false, true},
	} {
		if b.size.members > 1000 {
			s.rounds = min(s.rounds, 3)
		}
		if !o.wants(s.name) || s.rounds == 0 {
			continue
		}
		b.log("%d members: %s ...", b.size.members, s.what)
		if err := b.hub.forgetPeak(); err != nil {
			return err
		}
		st, err := b.storm(ctx, s.rounds, s.empty, s.restart)
		if err != nil {
			return fmt.Errorf("%s: %w", s.what, err)
		}
		if !s.empty && !s.restart {
			r.row.storm = st
		}
		r.storms(s.what, st)
		if err := b.peak(r); err != nil {
			return err
		}
	}
	if o.wants("rest") && o.wants("kill") && o.kills > 0 {
		return b.atRest(ctx, o, r, "in memory at rest, of a hub that was restarted")
	}
	return nil
}

func (b *bench) peak(r *report) error {
	_, peak, err := b.hub.memory()
	r.line("  peak of memory", "%.0f MiB", mib(peak))
	return errors.Join(err, r.w.Flush())
}

func (b *bench) atRest(ctx context.Context, o options, r *report, what string) error {
	cpu, err := b.rest(ctx, o.rest)
	if err != nil {
		return err
	}
	now, _, err := b.hub.memory()
	if err != nil {
		return err
	}
	s, err := b.hub.sample(ctx)
	if err != nil {
		return err
	}
	share := float64(now-r.empty) / 1024 / float64(b.size.members)
	if r.row.resident == 0 {
		r.row.resident, r.row.share = mib(now), share
	}
	r.line(what, "%.0f MiB, of which %.0f KiB for each member; heap %.0f MiB in use, stacks %.0f MiB, %.0f goroutines", mib(now), share,
		s["go_memstats_heap_inuse_bytes"]/(1<<20), s["go_memstats_stack_inuse_bytes"]/(1<<20), s["go_goroutines"])
	r.line("at rest, with a heartbeat each 10 s", "%.2f %% of a core, load %s", 100*cpu, load())
	return nil
}
