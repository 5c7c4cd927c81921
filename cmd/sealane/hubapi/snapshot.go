package hubapi

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/sealane/sealane/api/v1alpha1"
)

// Snapshot is every resource of a hub but the tokens, each list sorted by
// namespace and name.
type Snapshot struct {
	Topologies []v1alpha1.MessagingTopology
	Members    []v1alpha1.MemberCluster
	Streams    []v1alpha1.Stream
	Bridges    []v1alpha1.Bridge
}

// Snapshot reads everything.
func (h *Hub) Snapshot(ctx context.Context) (*Snapshot, error) {
	var (
		topologies v1alpha1.MessagingTopologyList
		members    v1alpha1.MemberClusterList
		streams    v1alpha1.StreamList
		bridges    v1alpha1.BridgeList
	)
	for _, read := range []func() error{
		func() error { return h.List(ctx, &topologies) },
		func() error { return h.List(ctx, &members) },
		func() error { return h.List(ctx, &streams) },
		func() error { return h.List(ctx, &bridges) },
	} {
		if err := read(); err != nil {
			return nil, h.Explain(err)
		}
	}
	s := &Snapshot{Topologies: topologies.Items, Members: members.Items, Streams: streams.Items, Bridges: bridges.Items}
	slices.SortFunc(s.Topologies, func(a, b v1alpha1.MessagingTopology) int { return byName(&a.ObjectMeta, &b.ObjectMeta) })
	slices.SortFunc(s.Members, func(a, b v1alpha1.MemberCluster) int { return byName(&a.ObjectMeta, &b.ObjectMeta) })
	slices.SortFunc(s.Streams, func(a, b v1alpha1.Stream) int { return byName(&a.ObjectMeta, &b.ObjectMeta) })
	slices.SortFunc(s.Bridges, func(a, b v1alpha1.Bridge) int { return byName(&a.ObjectMeta, &b.ObjectMeta) })
	return s, nil
}

func byName(a, b *metav1.ObjectMeta) int {
	return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}

// Connected tells whether the hub has a live session with the member.
func Connected(m *v1alpha1.MemberCluster) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionConnected)
}

// LinkUnknown is the state of a link neither of whose ends is connected to the
// hub, so that nobody can tell.
const LinkUnknown v1alpha1.LinkState = "Unknown"

// Link is one link, as its two ends together see it.
type Link struct {
	Dialer   string             `json:"dialer"`
	Acceptor string             `json:"acceptor"`
	State    v1alpha1.LinkState `json:"state"`
	Since    time.Time          `json:"since"`
	// RTTMicros is the last round trip in microseconds, as the dialer measured
	// it or, failing that, the acceptor. 0: never measured.
	RTTMicros int64  `json:"rttMicros,omitempty"`
	Message   string `json:"message,omitempty"`
}

// Name of the link, whoever dials, as conditions spell it.
func (l *Link) Name() string {
	return min(l.Dialer, l.Acceptor) + "<->" + max(l.Dialer, l.Acceptor)
}

type linkEnd struct {
	member    string
	connected bool
	status    *v1alpha1.LinkStatus
}

// Links merges what the members report: one Link for each pair, sorted. What a
// disconnected member said last counts only if its peer has nothing newer.
func (s *Snapshot) Links() []Link {
	type pair struct{ dialer, acceptor string }
	ends := map[pair][]linkEnd{}
	for i := range s.Members {
		m := &s.Members[i]
		for j := range m.Status.Links {
			st := &m.Status.Links[j]
			p := pair{m.Name, st.Peer}
			if st.Role == "Accept" {
				p = pair{st.Peer, m.Name}
			}
			ends[p] = append(ends[p], linkEnd{m.Name, Connected(m), st})
		}
	}
	links := make([]Link, 0, len(ends))
	for p, e := range ends {
		links = append(links, mergeLink(p.dialer, p.acceptor, e))
	}
	slices.SortFunc(links, func(a, b Link) int {
		return cmp.Or(strings.Compare(a.Dialer, b.Dialer), strings.Compare(a.Acceptor, b.Acceptor))
	})
	return links
}

// worst orders the states: a link is as good as its worse end says.
var worst = map[v1alpha1.LinkState]int{
	v1alpha1.LinkDown: 4, v1alpha1.LinkPending: 3, v1alpha1.LinkStandby: 2, v1alpha1.LinkUp: 1,
}

func mergeLink(dialer, acceptor string, ends []linkEnd) Link {
	l := Link{Dialer: dialer, Acceptor: acceptor}
	live := slices.DeleteFunc(slices.Clone(ends), func(e linkEnd) bool { return !e.connected })
	if len(live) == 0 {
		l.State = LinkUnknown
		l.Message = "neither end is connected to the hub"
		for _, e := range ends {
			l.Since = later(l.Since, e.status.Since.Time)
		}
		return l
	}
	var messages []string
	for _, e := range live {
		switch w, have := worst[e.status.State], worst[l.State]; {
		case w > have:
			l.State, l.Since = e.status.State, e.status.Since.Time
		case w == have && l.State == v1alpha1.LinkUp: // up is what both ends see
			l.Since = later(l.Since, e.status.Since.Time)
		case w == have && e.status.Since.Time.Before(l.Since):
			l.Since = e.status.Since.Time
		}
		if e.status.RTTMicros != 0 && (l.RTTMicros == 0 || e.member == dialer) {
			l.RTTMicros = e.status.RTTMicros
		}
		if e.status.Message != "" {
			messages = append(messages, e.member+": "+e.status.Message)
		}
	}
	slices.Sort(messages)
	l.Message = strings.Join(messages, "; ")
	return l
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
