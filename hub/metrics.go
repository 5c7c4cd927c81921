package hub

import "github.com/prometheus/client_golang/prometheus"

// metrics are the hub's own, all of them.
type metrics struct {
	connected  prometheus.Gauge
	updates    prometheus.Counter
	bytes      prometheus.Counter
	refusals   prometheus.Counter
	sessions   *prometheus.CounterVec
	enrolments *prometheus.CounterVec
	leads      prometheus.Gauge
	relayed    prometheus.Gauge
}

func newMetrics() *metrics {
	return &metrics{
		connected: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sealane_hub_connected_members", Help: "Members with an open session.",
		}),
		updates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sealane_hub_updates_sent_total", Help: "Updates sent to members.",
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sealane_hub_update_bytes_sent_total", Help: "Bytes of the updates sent to members, before encryption.",
		}),
		refusals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "sealane_hub_updates_refused_total", Help: "Updates that a member refused as a whole.",
		}),
		sessions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_hub_sessions_ended_total", Help: "Sessions that ended, by gRPC code.",
		}, []string{"code"}),
		enrolments: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_hub_enrolments_total", Help: "Attempts to enrol, by result: the gRPC code.",
		}, []string{"code"}),
		leads: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sealane_hub_leader", Help: "1 if this replica plans and has the sessions, else 0.",
		}),
		relayed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sealane_hub_relayed_sessions", Help: "Sessions that this replica passes on to the leader.",
		}),
	}
}

func (m *metrics) register(r prometheus.Registerer) {
	r.MustRegister(m.connected, m.updates, m.bytes, m.refusals, m.sessions, m.enrolments, m.leads, m.relayed)
}
