package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// DefaultMetricsListen is where metrics are served unless Options say otherwise.
const DefaultMetricsListen = "127.0.0.1:9444"

const (
	// maxLinkSeries and maxFlowSeries bound the links and flows that are shown one by
	// one; how many are not is a metric too.
	maxLinkSeries, maxFlowSeries = 256, 512
)

// metrics are the agent's own, all of them.
type metrics struct {
	sessions *prometheus.CounterVec
	updates  *prometheus.CounterVec
	journal  prometheus.Histogram
	apply    prometheus.Histogram

	session, parts, leftOut                            *prometheus.Desc
	linkUp, linkRTT, linkMessages, linkBytes           *prometheus.Desc
	flowUp, flowLag                                    *prometheus.Desc
	servers, healthy, connections, messages            *prometheus.Desc
	storage, storageLimit, memory, memoryLimit, expiry *prometheus.Desc
}

func newMetrics() *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	m := &metrics{
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_agent_sessions_total", Help: "Attempts to open a session with the hub, by result: open, failed.",
		}, []string{"result"}),
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_agent_updates_total", Help: "Updates of the hub, by result: accepted, unknown_base, or the kind of the refusal.",
		}, []string{"result"}),
		journal: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sealane_agent_journal_seconds", Help: "Time to check an update and write it to the journal.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 7),
		}),
		apply: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "sealane_agent_apply_seconds", Help: "Time from an update in the journal until each part of it was applied or had failed.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 9),
		}),
		session:      desc("sealane_agent_session", "1 while there is a session with the hub, else 0."),
		parts:        desc("sealane_agent_parts", "Held parts, by state: pending, applied, failed.", "state"),
		leftOut:      desc("sealane_agent_series_left_out", "Links and flows that are not shown one by one, because there are too many."),
		linkUp:       desc("sealane_agent_link_up", "1 if the link works, else 0; a link on standby is not shown.", "peer"),
		linkRTT:      desc("sealane_agent_link_rtt_seconds", "Round trip of the last probe of the link that came back.", "peer"),
		linkMessages: desc("sealane_agent_link_messages_total", "Messages that crossed the present connections of the link, by direction. Only of brokers in the agent's process.", "peer", "direction"),
		linkBytes:    desc("sealane_agent_link_bytes_total", "Bytes of these messages.", "peer", "direction"),
		flowUp:       desc("sealane_agent_bridge_up", "1 if the durable flow from that origin into the stream runs, else 0.", "bridge", "origin", "account", "stream"),
		flowLag:      desc("sealane_agent_bridge_lag_messages", "Messages of the flow that have not arrived.", "bridge", "origin", "account", "stream"),
		servers:      desc("sealane_agent_broker_servers", "Servers of the broker that run."),
		healthy:      desc("sealane_agent_broker_healthy_servers", "Servers of the broker whose JetStream and accounts are well."),
		connections:  desc("sealane_agent_broker_connections", "Connections to the broker."),
		messages:     desc("sealane_agent_broker_messages_total", "Messages in and out of the broker since it started."),
		storage:      desc("sealane_agent_broker_storage_bytes", "Bytes of streams on disk."),
		storageLimit: desc("sealane_agent_broker_storage_limit_bytes", "Bytes that streams may take on disk; 0: there is no limit."),
		memory:       desc("sealane_agent_broker_memory_bytes", "Bytes of streams in memory."),
		memoryLimit:  desc("sealane_agent_broker_memory_limit_bytes", "Bytes that streams may take in memory; 0: there is no limit."),
		expiry:       desc("sealane_agent_certificate_expiry_timestamp_seconds", "When the member's certificate expires, Unix time."),
	}
	return m
}

// counted are the metrics that are counted as things happen, computed those that
// are looked up when they are asked for.
func (m *metrics) counted() []prometheus.Collector {
	return []prometheus.Collector{m.sessions, m.updates, m.journal, m.apply}
}

func (m *metrics) computed() []*prometheus.Desc {
	return []*prometheus.Desc{
		m.session, m.parts, m.leftOut, m.linkUp, m.linkRTT, m.linkMessages, m.linkBytes, m.flowUp, m.flowLag,
		m.servers, m.healthy, m.connections, m.messages, m.storage, m.storageLimit, m.memory, m.memoryLimit, m.expiry,
	}
}

// memberCollector shows a member at the moment of being asked.
type memberCollector struct {
	*metrics
	member *member
	// open tells whether there is a session.
	open func() bool
}

// Describe implements prometheus.Collector.
func (c *memberCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.computed() {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *memberCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	v := c.member.pic.now()
	gauge(c.session, truth(c.open()))
	gauge(c.expiry, float64(c.member.ident.Load().notAfter().Unix()))
	states := map[federationv1.PartStatus_State]int{}
	for _, p := range v.parts {
		states[p.State]++
	}
	gauge(c.parts, float64(states[federationv1.PartStatus_PENDING]), "pending")
	gauge(c.parts, float64(states[federationv1.PartStatus_APPLIED]), "applied")
	gauge(c.parts, float64(states[federationv1.PartStatus_FAILED]), "failed")

	usage, metered := broker.Usage{}, false
	if meter, ok := c.member.rt.(broker.Meter); ok {
		usage, metered = meter.Usage(), true
	}
	peers, leftOut := some(v.links, maxLinkSeries, cmp.Compare[string])
	held, groups := c.member.holder.now(), map[string]bool{}
	for _, peer := range peers {
		l := v.links[peer]
		if l.State != federationv1.Health_STANDBY {
			gauge(c.linkUp, truth(l.State == federationv1.Health_UP), peer)
		}
		if l.RttMicros > 0 {
			gauge(c.linkRTT, float64(l.RttMicros)/1e6, peer)
		}
		if at := held.parts[federationv1.LinkID(peer)].GetLink().PeerAt(); at != "" && at != peer {
			groups[at] = true
		} else if usage.Links != nil {
			c.traffic(ch, peer, usage.Links[federationv1.InAccount(peer)], usage.Links[federationv1.OutAccount(peer)])
		}
	}
	for group := range groups { // accounts that links share are counted once
		if usage.Links != nil {
			c.traffic(ch, group, usage.Links[federationv1.InAccount(group)], usage.Links[federationv1.OutAccount(group)])
		}
	}
	keys, more := some(v.flows, maxFlowSeries, func(a, b flowKey) int {
		return cmp.Or(cmp.Compare(a.bridge, b.bridge), cmp.Compare(a.origin, b.origin), cmp.Compare(a.account, b.account), cmp.Compare(a.stream, b.stream))
	})
	for _, k := range keys {
		f := v.flows[k]
		gauge(c.flowUp, truth(f.State == federationv1.Health_UP), k.bridge, k.origin, k.account, k.stream)
		gauge(c.flowLag, float64(f.Lag), k.bridge, k.origin, k.account, k.stream)
	}
	gauge(c.leftOut, float64(leftOut+more))
	if !metered {
		return
	}
	gauge(c.servers, float64(usage.Servers))
	gauge(c.healthy, float64(usage.Healthy))
	gauge(c.connections, float64(usage.Connections))
	ch <- prometheus.MustNewConstMetric(c.messages, prometheus.CounterValue, float64(usage.Messages))
	gauge(c.storage, float64(usage.Storage))
	gauge(c.storageLimit, float64(max(usage.StorageLimit, 0)))
	gauge(c.memory, float64(usage.Memory))
	gauge(c.memoryLimit, float64(max(usage.MemoryLimit, 0)))
}

// traffic shows what crossed a link: messages arrive by its rx account and leave
// by its tx account; the other way go replies and acknowledgements.
func (c *memberCollector) traffic(ch chan<- prometheus.Metric, peer string, rx, tx broker.Traffic) {
	counter := func(d *prometheus.Desc, v int64, direction string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), peer, direction)
	}
	counter(c.linkMessages, rx.InMessages+tx.InMessages, "in")
	counter(c.linkMessages, rx.OutMessages+tx.OutMessages, "out")
	counter(c.linkBytes, rx.InBytes+tx.InBytes, "in")
	counter(c.linkBytes, rx.OutBytes+tx.OutBytes, "out")
}

// some are the first keys of a map in order, and how many more there are.
func some[K comparable, V any](m map[K]V, limit int, compare func(a, b K) int) ([]K, int) {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compare)
	if len(keys) > limit {
		return keys[:limit], len(keys) - limit
	}
	return keys, 0
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// metricsServer answers Prometheus.
type metricsServer struct {
	server *http.Server
	done   chan struct{}
}

// serveMetrics serves what c shows at addr. With ifFree they are served nowhere if
// somebody has that, as on a machine with several agents.
func serveMetrics(addr string, ifFree bool, c *memberCollector, log *slog.Logger) (*metricsServer, error) {
	if addr == "" {
		return nil, nil
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", addr)
	if err != nil && ifFree {
		log.Warn("metrics are served nowhere, because the default address cannot be had: choose another one with --metrics-listen HOST:PORT", "reason", err)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("--metrics-listen: %w", err)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), c)
	registry.MustRegister(c.counted()...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	s := &metricsServer{server: &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}, done: make(chan struct{})}
	log.Info("metrics are served", "address", l.Addr().String())
	go func() {
		defer close(s.done)
		_ = s.server.Serve(l) // until it is closed
	}()
	return s, nil
}

func (s *metricsServer) close() {
	if s == nil {
		return
	}
	if err := s.server.Close(); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return
	}
	<-s.done
}
