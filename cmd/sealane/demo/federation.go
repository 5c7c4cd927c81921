package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/cmd/sealane/hubapi"
)

const (
	// look is how often something that is waited for is looked at.
	look = 50 * time.Millisecond
	// tokenTTL is long enough for a slow machine.
	tokenTTL = 10 * time.Minute
)

// federation is the hub, the members, and what the demo holds of them.
type federation struct {
	folder *folder
	forker *forker
	hubAt  string // where agents reach the hub
	hubRun *process
	// api is set once the hub serves it.
	api     *hubapi.Hub
	members []*member
}

// member is one member with its broker.
type member struct {
	name string
	run  *process
	// link is where the other members reach the broker; nil: they reach it directly.
	link *proxy

	mu    sync.Mutex
	conns map[string]*nats.Conn // by account
}

// newFederation chooses addresses. Nothing runs yet but the proxies, of which
// there are none if members shall reach each other directly.
func newFederation(f *folder, names []string, direct bool) (_ *federation, err error) {
	hubPath, err := findBinary("sealane-hub")
	if err != nil {
		return nil, err
	}
	agentPath, err := findBinary("sealane-agent")
	if err != nil {
		return nil, err
	}
	ports, err := freePorts(2 + 2*len(names))
	if err != nil {
		return nil, err
	}
	fed := &federation{folder: f, forker: newForker(), hubAt: ports[0]}
	fed.hubRun = &process{
		name: "the hub", path: hubPath, dir: f.hub(), forker: fed.forker,
		args: []string{"--embedded", "--data", f.hub(), "--listen", ports[0], "--advertise", ports[0], "--api-listen", ports[1],
			"--metrics-listen", ""},
	}
	for i, name := range names {
		listen, links := ports[2+2*i], ports[3+2*i]
		var p *proxy
		advertise := links
		if !direct {
			if p, err = newProxy(links); err != nil {
				fed.stop()
				return nil, err
			}
			advertise = p.addr()
		}
		dir := f.member(name)
		fed.members = append(fed.members, &member{
			name: name, link: p, conns: map[string]*nats.Conn{},
			run: &process{
				name: name, path: agentPath, dir: dir, forker: fed.forker,
				args: []string{"--name", name, "--hub", fed.hubAt, "--token-file", filepath.Join(dir, "join-token"), "--data", dir,
					"--client-listen", listen, "--link-listen", links, "--advertise", advertise},
			},
		})
	}
	return fed, nil
}

// stop ends everything, the members before the hub so that none of them has to
// notice.
func (f *federation) stop() {
	var all sync.WaitGroup
	for _, m := range f.members {
		all.Go(func() {
			m.disconnect()
			m.run.stop()
			if m.link != nil {
				m.link.close()
			}
		})
	}
	all.Wait()
	f.hubRun.stop()
	f.forker.close()
}

func (f *federation) member(name string) *member {
	i := slices.IndexFunc(f.members, func(m *member) bool { return m.name == name })
	return f.members[i] // the story asks for members that it made
}

func (f *federation) processes() []*process {
	all := []*process{f.hubRun}
	for _, m := range f.members {
		all = append(all, m.run)
	}
	return all
}

// died says which process has ended without being told to.
func (f *federation) died() error {
	for _, p := range f.processes() {
		if err := p.died(); err != nil {
			return err
		}
	}
	return nil
}

// restore starts what a step has killed and did not come to start again.
func (f *federation) restore() error {
	for _, p := range f.processes() {
		if p.running() {
			continue
		}
		if err := p.start(); err != nil {
			return err
		}
	}
	return nil
}

// hopeless is an error after which waiting on is useless.
type hopeless struct{ error }

func (h hopeless) Unwrap() error { return h.error }

// await looks until done finds nothing to complain about. If time runs out, the
// error says what was waited for and the last complaint. A hopeless one, or a
// process that ends by itself, ends the wait.
func (f *federation) await(ctx context.Context, limit time.Duration, what string, done func(context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var last error
	err := hubapi.Poll(within, look, func() (bool, error) {
		if err := f.died(); err != nil {
			return false, err
		}
		err := done(within)
		if err == nil || errors.As(err, new(hopeless)) {
			return err == nil, err
		}
		if within.Err() == nil || last == nil {
			last = err
		}
		return false, nil
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return &timeoutError{what, limit, last}
	}
	return err
}

// timeoutError says what did not happen in time.
type timeoutError struct {
	what  string
	limit time.Duration
	last  error
}

func (e *timeoutError) Error() string {
	return fmt.Sprintf("not within %s: %s; last seen: %v", e.limit, e.what, e.last)
}

// startHub runs the hub and waits until its API answers.
func (f *federation) startHub(ctx context.Context) error {
	if err := f.hubRun.start(); err != nil {
		return err
	}
	kubeconfig := filepath.Join(f.folder.hub(), "kubeconfig")
	return f.await(ctx, 30*time.Second, "the hub's API answers", func(ctx context.Context) error {
		if _, err := os.Stat(kubeconfig); err != nil {
			return err
		}
		if f.api == nil {
			api, err := hubapi.Connect(hubapi.Where{Kubeconfig: kubeconfig})
			if err != nil {
				return err // half written
			}
			f.api = api
		}
		if err := f.api.List(ctx, &v1alpha1.JoinTokenList{}); err != nil {
			return err
		}
		return nil
	})
}

// join makes a token for the member and starts its agent with it.
func (f *federation) join(ctx context.Context, m *member) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	token, err := f.api.CreateToken(ctx, hubapi.TokenRequest{Cluster: m.name, Uses: 1, TTL: tokenTTL, Labels: labelsOf(m.name)})
	if err != nil {
		return fmt.Errorf("a join token for %s: %w", m.name, err)
	}
	if token.Hub != f.hubAt {
		return fmt.Errorf("the hub says that agents reach it at %s, not at %s where it was told to listen", token.Hub, f.hubAt)
	}
	if err := os.MkdirAll(m.run.dir, 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.run.dir, "join-token"), []byte(token.Text+"\n"), 0o600); err != nil {
		return err
	}
	return m.run.start()
}

// awaitConnected waits until the hub has a session with the member.
func (f *federation) awaitConnected(ctx context.Context, m *member) error {
	return f.await(ctx, 30*time.Second, m.name+" is connected to the hub", func(ctx context.Context) error {
		var o v1alpha1.MemberCluster
		err := f.api.Get(ctx, client.ObjectKey{Name: m.name}, &o)
		if err != nil {
			return err // not enrolled yet
		}
		c := meta.FindStatusCondition(o.Status.Conditions, v1alpha1.ConditionConnected)
		if c == nil {
			return errors.New("enrolled, and no word of a session")
		}
		if c.Status != metav1.ConditionTrue {
			return fmt.Errorf("%s: %s", c.Reason, c.Message)
		}
		return nil
	})
}

// awaitFine waits until the hub reports that everything works, as "sealane
// status" would.
func (f *federation) awaitFine(ctx context.Context, limit time.Duration) (*hubapi.Report, error) {
	var r *hubapi.Report
	err := f.await(ctx, limit, "everything is Ready", func(ctx context.Context) error {
		s, err := f.api.Snapshot(ctx)
		if err != nil {
			return err // the hub may be starting
		}
		r = hubapi.Judge(s, time.Now())
		if !r.Fine {
			return errors.New(spell(r, 6))
		}
		return nil
	})
	return r, err
}

// spell is a report in a few lines.
func spell(r *hubapi.Report, most int) string {
	lines := []string{r.Summary}
	for i, f := range r.Findings {
		if f.Area == hubapi.AreaNotes || i == most {
			break
		}
		lines = append(lines, fmt.Sprintf("  %s: %s: %s", f.Object, f.Reason, f.Message))
	}
	return strings.Join(lines, "\n")
}

// url is where clients reach the member's broker.
func (m *member) url() (string, error) {
	b, err := os.ReadFile(filepath.Join(m.run.dir, "url"))
	return strings.TrimSpace(string(b)), err
}

func (m *member) creds(account string) string {
	return filepath.Join(m.run.dir, "creds", account+".creds")
}

// connect is an application's connection to the member, as any NATS client
// would make it. It is kept until the end, and reconnects.
func (f *federation) connect(ctx context.Context, m *member, account string) (*nats.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if nc := m.conns[account]; nc != nil {
		return nc, nil
	}
	var nc *nats.Conn
	err := f.await(ctx, 15*time.Second, "a client connects to "+m.name, func(context.Context) error {
		url, err := m.url()
		if err != nil {
			return err
		}
		nc, err = nats.Connect(url, nats.UserCredentials(m.creds(account)), nats.Name("sealane demo"),
			nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.ReconnectJitter(0, 0), nats.Timeout(5*time.Second),
			nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {})) // the steps notice what matters
		if err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	m.conns[account] = nc
	return nc, nil
}

func (m *member) disconnect() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, nc := range m.conns {
		nc.Close()
	}
	clear(m.conns)
}
