package hub

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the hub's own, all of them.
type metrics struct {
	connected  prometheus.Gauge
	updates    prometheus.Counter
	bytes      prometheus.Counter
	refusals   prometheus.Counter
	refused    *prometheus.CounterVec
	sessions   *prometheus.CounterVec
	enrolments *prometheus.CounterVec
	leads      prometheus.Gauge
	relayed    prometheus.Gauge
	phases     *prometheus.HistogramVec
	published  prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
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
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_hub_agents_refused_total", Help: "Connections, calls and sessions of agents that were refused, by reason.",
		}, []string{"reason"}),
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
		phases: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sealane_hub_plan_phase_seconds", Help: "Time that the phases of making a plan took: gather, compile, publish.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}, []string{"phase"}),
		published: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sealane_hub_plan_published_timestamp_seconds", Help: "When the present plan was published to the sessions, Unix time.",
		}),
	}
	for _, reason := range refusalReasons {
		m.refused.WithLabelValues(reason) // shown from the start
	}
	return m
}

// phase notes how long a phase of making a plan took, and returns its end.
func (m *metrics) phase(name string, began time.Time) time.Time {
	now := time.Now()
	m.phases.WithLabelValues(name).Observe(now.Sub(began).Seconds())
	return now
}

func (m *metrics) register(r prometheus.Registerer) {
	r.MustRegister(m.connected, m.updates, m.bytes, m.refusals, m.refused, m.sessions, m.enrolments, m.leads, m.relayed, m.phases, m.published)
}
