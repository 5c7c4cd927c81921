package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// links makes the broker's configuration what is held: its limits, and the
// connections to the peers that this member dials. It alone calls Configure.
type links struct {
	rt     broker.Runtime
	self   string
	key    string // public link key
	ident  *atomic.Pointer[identity]
	holder *holder
	proxy  proxyFunc
	log    *slog.Logger

	mu sync.Mutex
	// running is the configuration that is in effect; nil before the first.
	running *broker.Config
	// groups are the failover groups of its remotes, bad those of its peers whose
	// remotes the broker left out, and why.
	groups map[string]string
	bad    map[string]error
	// draining are the links taken out of use whose connections may still be up,
	// with their failover groups.
	draining map[string]string
	// failed is the configuration that was last refused, with what came of it.
	failed  *broker.Config
	last    linkOutcome
	retry   backoff
	retryAt time.Time
	tls     *tls.Config
	tlsOf   *identity
}

func newLinks(m *member, key string) *links {
	return &links{rt: m.rt, self: m.name, key: key, ident: m.ident, holder: m.holder, proxy: m.proxy, log: m.log, draining: map[string]string{}}
}

// linkOutcome says what could not be configured.
type linkOutcome struct {
	// started tells that the broker runs; restarted that it did so anew.
	started, restarted bool
	spec               error
	peers              map[string]error
}

func (o linkOutcome) err() error {
	return errors.Join(append([]error{o.spec}, slices.Collect(maps.Values(o.peers))...)...)
}

// sync makes the present held state the broker's configuration. Of a failover
// group at most one link is enabled at any moment: the others' connections are
// gone before the next one's are allowed.
func (l *links) sync(ctx context.Context) linkOutcome {
	l.mu.Lock()
	defer l.mu.Unlock()
	want, groups, refused := l.config(l.holder.now())
	out := linkOutcome{started: true, peers: refused}
	if l.running != nil && sameConfig(l.running, want) {
		l.failed = nil
		maps.Copy(out.peers, l.bad)
		return out
	}
	if l.failed != nil && sameConfig(l.failed, want) && time.Now().Before(l.retryAt) {
		return l.last
	}
	err := l.makeRoom(ctx, want, groups, &out)
	if err == nil {
		err = l.configure(ctx, want, groups, &out)
	}
	if err != nil && l.running != nil && !proto.Equal(l.running.Spec, want.Spec) {
		// The links need not wait until the limits are mended.
		l.log.Error("the broker refuses its limits, keeping the ones that it has", "error", err)
		kept := *want
		kept.Spec = l.running.Spec
		out.spec, err = err, nil
		if err := l.configure(ctx, &kept, groups, &out); err != nil {
			out.spec = errors.Join(out.spec, err)
		}
	}
	if err != nil {
		out.spec = err
	}
	if out.err() == nil {
		l.failed = nil
		l.retry.reset()
		return out
	}
	out.started = l.running != nil
	if l.retry.base == 0 {
		l.retry = backoff{base: time.Second, limit: 30 * time.Second}
	}
	l.failed, l.last, l.retryAt = want, out, time.Now().Add(l.retry.next())
	return out
}

// configure has the broker take c. What it says of single peers goes to out, the
// rest is returned.
func (l *links) configure(ctx context.Context, c *broker.Config, groups map[string]string, out *linkOutcome) error {
	restarted, err := l.rt.Configure(ctx, *c)
	out.restarted = out.restarted || restarted
	bad, other := remoteErrors(err)
	if other == nil {
		l.running, l.groups, l.bad = c, groups, bad
		maps.Copy(out.peers, bad)
	}
	return other
}

// remoteErrors splits what Configure returned into the errors of single peers,
// without whose links the configuration is in effect, and any other.
func remoteErrors(err error) (map[string]error, error) {
	bad := map[string]error{}
	list := []error{err}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		list = many.Unwrap()
	}
	for _, e := range list {
		var r *broker.RemoteError
		if !errors.As(e, &r) {
			return nil, err
		}
		bad[r.Peer] = r.Err
	}
	return bad, nil
}

// has tells whether a link is configured, in use or not.
func (l *links) has(spec *federationv1.LinkSpec) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.running == nil || l.bad[spec.Peer] != nil {
		return false
	}
	return slices.ContainsFunc(l.running.Remotes, func(r broker.Remote) bool {
		return r.Peer == spec.Peer && r.Out && r.JWT == spec.Grant.GetOut() && r.Spoke == spec.Spoke && r.Incarnation == spec.Incarnation && slices.Equal(r.Endpoints, spec.Endpoints)
	})
}

// config is the configuration that h asks for, and why some links are not in it.
func (l *links) config(h *held) (*broker.Config, map[string]string, map[string]error) {
	id := l.ident.Load()
	if l.tlsOf != id {
		l.tls, l.tlsOf = id.linkTLS(), id
	}
	c := &broker.Config{Cluster: l.self, TLS: l.tls, TrustDomain: id.trustDomain}
	for _, a := range id.authorities {
		c.Authorities = append(c.Authorities, a.Raw)
	}
	if p := h.parts[federationv1.BrokerID]; p != nil {
		c.Spec = p.GetBroker()
	}
	groups := map[string]string{}
	refused := map[string]error{}
	idle := standby(h)
	for _, id := range h.ids() {
		spec := h.parts[id].GetLink()
		if spec.GetRole() != federationv1.LinkSpec_DIAL {
			continue
		}
		if spec.Peer == l.self {
			refused[spec.Peer] = errors.New("it is a link from this member to itself")
			continue
		}
		if err := broker.VerifyGrant(spec.Grant, l.key); err != nil {
			refused[spec.Peer] = err
			continue
		}
		proxy, err := l.proxy.of(spec.Endpoints)
		if err != nil {
			refused[spec.Peer] = err
			continue
		}
		if spec.FailoverGroup != "" {
			groups[spec.Peer] = spec.FailoverGroup
		}
		out := broker.Remote{
			Peer: spec.Peer, Incarnation: spec.Incarnation, Out: true, Endpoints: spec.Endpoints, Proxy: proxy, JWT: spec.Grant.Out,
			Disabled: idle[spec.Peer], Spoke: spec.Spoke, Shared: spec.Group != nil,
		}
		in := out
		in.Out, in.JWT = false, spec.Grant.In
		c.Remotes = append(c.Remotes, out, in)
	}
	return c, groups, refused
}

func sameConfig(a, b *broker.Config) bool {
	return a.Cluster == b.Cluster && a.TrustDomain == b.TrustDomain && a.TLS == b.TLS &&
		proto.Equal(a.Spec, b.Spec) && reflect.DeepEqual(a.Remotes, b.Remotes)
}

func enabledPeers(c *broker.Config) map[string]bool {
	m := map[string]bool{}
	if c != nil {
		for _, r := range c.Remotes {
			if !r.Disabled {
				m[r.Peer] = true
			}
		}
	}
	return m
}

// makeRoom takes the links out of use whose failover group goes on with another
// one, and waits until their connections are gone.
func (l *links) makeRoom(ctx context.Context, want *broker.Config, groups map[string]string, out *linkOutcome) error {
	was, will := enabledPeers(l.running), enabledPeers(want)
	for peer := range was {
		if g := l.groups[peer]; g != "" && !will[peer] {
			l.draining[peer] = g
		}
	}
	crowded := map[string]bool{} // groups that someone leaves
	for peer, g := range l.draining {
		if will[peer] {
			delete(l.draining, peer) // it comes back itself
		} else {
			crowded[g] = true
		}
	}
	c := *want
	c.Remotes = slices.Clone(want.Remotes)
	needed := false
	for i, r := range c.Remotes {
		if will[r.Peer] && !was[r.Peer] && groups[r.Peer] != "" && crowded[groups[r.Peer]] {
			c.Remotes[i].Disabled, needed = true, true
		}
	}
	if !needed {
		return nil
	}
	if err := l.configure(ctx, &c, groups, out); err != nil {
		return err
	}
	for peer := range l.draining {
		if err := l.awaitGone(ctx, peer); err != nil {
			return err
		}
		delete(l.draining, peer)
	}
	return nil
}

// awaitGone waits until no connection of the link to peer is up, closing what
// does not end by itself.
func (l *links) awaitGone(ctx context.Context, peer string) error {
	const patience, poll = 2 * time.Second, 20 * time.Millisecond
	for start := time.Now(); ; {
		conns, err := l.rt.LeafConns()
		if err != nil {
			return err
		}
		mine := slices.DeleteFunc(conns, func(c broker.LeafConn) bool {
			return c.Account != federationv1.OutAccount(peer) && c.Account != federationv1.InAccount(peer)
		})
		switch waited := time.Since(start); {
		case len(mine) == 0:
			return nil
		case waited > 2*patience:
			return fmt.Errorf("the connections to %s do not end", peer)
		case waited > patience:
			for _, c := range mine {
				_ = l.rt.KickLeaf(c.ID) // it may be gone already
			}
		}
		if !sleep(ctx, poll) {
			return ctx.Err()
		}
	}
}
