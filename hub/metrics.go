package hub

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/api/v1alpha1"
)

// metrics are the hub's own, all of them. No label takes what members, or their
// applications, say: the number of series does not depend on them.
type metrics struct {
	connected    prometheus.Gauge
	updates      prometheus.Counter
	bytes        prometheus.Counter
	refusals     *prometheus.CounterVec
	refused      *prometheus.CounterVec
	sessions     *prometheus.CounterVec
	enrolments   *prometheus.CounterVec
	leads        prometheus.Gauge
	relayed      prometheus.Gauge
	phases       *prometheus.HistogramVec
	published    prometheus.Gauge
	problems     prometheus.Gauge
	rollouts     *prometheus.GaugeVec
	statusWrites *prometheus.CounterVec
	events       *prometheus.CounterVec

	reach *prometheus.HistogramVec
	// Of reach, by phase.
	sent, journalled, applied prometheus.Observer

	fleet *fleetMetrics
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
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_hub_updates_refused_total", Help: "Updates that a member refused as a whole, by kind.",
		}, []string{"reason"}),
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
		problems: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "sealane_hub_refused_objects", Help: "Topologies, streams, bridges and members that are refused, in whole or in part.",
		}),
		rollouts: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "sealane_hub_rollouts", Help: "Topologies that are rolled out in waves, by the state of the rollout.",
		}, []string{"state"}),
		statusWrites: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_hub_status_writes_total", Help: "Statuses written to the API server, by result: ok, conflict, gone, error.",
		}, []string{"result"}),
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sealane_hub_events_total", Help: "Kubernetes events written, by result: ok, conflict, gone, error.",
		}, []string{"result"}),
		reach: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "sealane_hub_change_seconds",
			Help:    "Time from an edit, as the hub learned of it, until one connected member got the first update (sent), held all of it (journalled), had applied it (applied).",
			Buckets: prometheus.ExponentialBuckets(0.001, 2.5, 14),
		}, []string{"phase"}),
		fleet: newFleetMetrics(),
	}
	for _, reason := range refusalReasons {
		m.refused.WithLabelValues(reason) // shown from the start
	}
	m.sent, m.journalled, m.applied = m.reach.WithLabelValues("sent"), m.reach.WithLabelValues("journalled"), m.reach.WithLabelValues("applied")
	return m
}

// phase notes how long a phase of making a plan took, and returns its end.
func (m *metrics) phase(name string, began time.Time) time.Time {
	now := time.Now()
	m.phases.WithLabelValues(name).Observe(now.Sub(began).Seconds())
	return now
}

// updateRefused counts a refusal. What a member says counts only if it is a known kind.
func (m *metrics) updateRefused(code string) {
	switch code {
	case federationv1.RefusedEpoch, federationv1.RefusedInvalid, federationv1.RefusedRemovals, federationv1.RefusedUnsaved:
	default:
		code = "Other"
	}
	m.refusals.WithLabelValues(code).Inc()
}

// countRollouts counts those that the topologies say.
func (m *metrics) countRollouts(topologies []*v1alpha1.MessagingTopology) {
	counts := map[v1alpha1.RolloutState]int{
		v1alpha1.RolloutComplete: 0, v1alpha1.RolloutProgressing: 0, v1alpha1.RolloutBaking: 0, v1alpha1.RolloutAwaitingApproval: 0,
		v1alpha1.RolloutPaused: 0, v1alpha1.RolloutOverBudget: 0, v1alpha1.RolloutRolledBack: 0, v1alpha1.RolloutUndone: 0,
	}
	for _, t := range topologies {
		if st := t.Status.Rollout; st != nil {
			counts[st.State]++
		}
	}
	for state, n := range counts {
		m.rollouts.WithLabelValues(string(state)).Set(float64(n))
	}
}

// all are the metrics, but for those that need the fleet.
func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.connected, m.updates, m.bytes, m.refusals, m.refused, m.sessions, m.enrolments, m.leads, m.relayed, m.phases, m.published,
		m.problems, m.rollouts, m.statusWrites, m.events, m.reach,
	}
}

// register registers them, with what f shows at the moment of being asked.
func (m *metrics) register(r prometheus.Registerer, f *Fleet) {
	r.MustRegister(m.all()...)
	r.MustRegister(&fleetCollector{m.fleet, f})
}

// fleetMetrics are computed from the fleet when they are asked for.
type fleetMetrics struct {
	members, behind, unapplied, failed, oldest *prometheus.Desc
	links, rtt, flows, lag, maxLag             *prometheus.Desc
}

func newFleetMetrics() *fleetMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &fleetMetrics{
		members:   desc("sealane_hub_planned_members", "Members that the plan has a state for."),
		behind:    desc("sealane_hub_members_behind", "Connected members that do not hold yet what is planned for them."),
		unapplied: desc("sealane_hub_members_unapplied", "Connected members that hold parts that are not applied."),
		failed:    desc("sealane_hub_failed_parts", "Parts that members hold and failed to apply."),
		oldest:    desc("sealane_hub_oldest_unapplied_change_seconds", "Age of the oldest edit that a member has not applied which was connected at the time; 0: there is none."),
		links:     desc("sealane_hub_links", "Ends of links, by the state that their member reported.", "state"),
		rtt:       desc("sealane_hub_link_rtt_seconds", "Round trips of the links as last reported, one for each end."),
		flows:     desc("sealane_hub_bridge_flows", "Durable flows, by the state that their destination reported.", "state"),
		lag:       desc("sealane_hub_bridge_lag_messages", "Messages of all durable flows that have not arrived."),
		maxLag:    desc("sealane_hub_bridge_lag_max_messages", "Messages of the durable flow with the most that have not arrived."),
	}
}

func (m *fleetMetrics) all() []*prometheus.Desc {
	return []*prometheus.Desc{m.members, m.behind, m.unapplied, m.failed, m.oldest, m.links, m.rtt, m.flows, m.lag, m.maxLag}
}
