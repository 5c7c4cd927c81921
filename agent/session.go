package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/telemetry"
)

const (
	backoffBase  = 250 * time.Millisecond
	backoffLimit = 15 * time.Second
	// steady is how long a session must last for the next wait to be short again.
	steady = 5 * time.Second
	// welcomeTimeout bounds the wait for the hub's first message.
	welcomeTimeout = 15 * time.Second
	// reportDelay lets what changes together be told together.
	reportDelay = 5 * time.Millisecond
	// maxMessage bounds what the hub may send at once.
	maxMessage = 64 << 20
	// A connection on which nothing is heard for keepaliveTime is asked, and given
	// up if it does not answer within keepaliveTimeout.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// features are the kinds of parts that this agent can apply.
var features = []string{"broker", "account", "link", "stream", "outlet"}

// hubClient keeps a session with the hub for as long as it runs.
type hubClient struct {
	hub    string
	info   *federationv1.AgentInfo
	ident  *atomic.Pointer[identity]
	holder *holder
	pic    *picture
	// updated is woken when the held state is another.
	updated func()
	log     *slog.Logger
	metrics *metrics
	tracer  *telemetry.Tracer // nil: nothing is traced
	// conn is the open connection, nil without a session; renewals use it too.
	conn atomic.Pointer[grpc.ClientConn]
}

// run opens sessions, one after the other, until ctx ends.
func (c *hubClient) run(ctx context.Context) {
	retry := backoff{base: backoffBase, limit: backoffLimit}
	quiet := quietly{every: retryQuiet}
	said := codes.OK // with which the hub refused last
	for ctx.Err() == nil {
		start := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > steady {
			retry.reset()
			quiet.reset()
		}
		wait := retry.next()
		if told := new(retryLater); errors.As(err, told) {
			wait = max(wait, told.after+rand.N(told.after/2+1)) //nolint:gosec // jitter is no secret
		}
		refused := refusedWith(err)
		news := refused != codes.OK && refused != said
		said = refused
		if quiet.speak(time.Now()) || news {
			c.log.Warn("no session with the hub; this member goes on with what it holds", "hub", c.hub, "error", err, "wait", wait.Round(time.Millisecond))
		} else {
			c.log.Debug("no session with the hub", "error", err, "wait", wait)
		}
		sleep(ctx, wait)
	}
}

// dial prepares a connection. A new certificate is used by the connections that
// are made after it came.
func (c *hubClient) dial() (*grpc.ClientConn, error) {
	host, _, err := net.SplitHostPort(c.hub)
	if err != nil {
		return nil, err
	}
	return grpc.NewClient("passthrough:///"+c.hub,
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
			MinVersion: tls.VersionTLS13,
			RootCAs:    c.ident.Load().pool,
			ServerName: host,
			NextProtos: []string{"h2", federationv1.EnrolledProtocol},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				return &c.ident.Load().cert, nil
			},
		})),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
}

// session opens one session and keeps it until it fails.
func (c *hubClient) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is waiting to be sent
	stream, err := federationv1.NewFederationClient(conn).Sync(ctx)
	if err != nil {
		return explainSession(err)
	}
	s := &session{hubClient: c, stream: stream}
	if err := s.hello(); err != nil {
		return explainSession(err)
	}
	recv := s.receive(ctx)
	welcome, err := s.welcome(ctx, recv)
	if err != nil {
		c.metrics.sessions.WithLabelValues("failed").Inc()
		return err
	}
	c.conn.Store(conn)
	defer c.conn.Store(nil)
	c.metrics.sessions.WithLabelValues("open").Inc()
	c.log.Info("session with the hub", "hub", c.hub, "epoch", welcome.Epoch)
	err = s.run(ctx, welcome, recv)
	s.applying.drop("the session is over")
	return err
}

// session is one open stream. Everything is sent by the goroutine that runs it.
type session struct {
	*hubClient
	stream grpc.BidiStreamingClient[federationv1.AgentMessage, federationv1.HubMessage]
	// sent is the view that the hub has; nil before the first report.
	sent *view
	// again ends the session, so that the next one may do better; nil: it does not.
	again <-chan time.Time
	// applying are the last updates, while they are not applied; nil: there are none.
	applying *applying
}

// hello opens the session.
func (s *session) hello() error {
	view, h := s.pic.now(), s.holder.now()
	return s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Hello{Hello: &federationv1.Hello{
		Protocol:  federationv1.ProtocolVersion,
		Agent:     s.info,
		Features:  features,
		HeldHash:  h.hash,
		Epoch:     h.epoch,
		Revision:  h.revision,
		Facts:     view.facts,
		Unapplied: brief(view.unapplied()),
	}}})
}

type received struct {
	msg *federationv1.HubMessage
	err error
}

// receive hands over what the hub sends, one at a time.
func (s *session) receive(ctx context.Context) <-chan received {
	ch := make(chan received)
	go func() {
		for {
			m, err := s.stream.Recv()
			select {
			case ch <- received{m, err}:
			case <-ctx.Done():
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return ch
}

// send sends one message. If the stream is gone the reason is what Recv tells.
func (s *session) send(m *federationv1.AgentMessage) error {
	err := s.stream.Send(m)
	if errors.Is(err, io.EOF) {
		return nil // the receiver has the real error
	}
	return err
}

// welcome waits for the hub's first message and judges it.
func (s *session) welcome(ctx context.Context, recv <-chan received) (*federationv1.Welcome, error) {
	t := time.NewTimer(welcomeTimeout)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-t.C:
		return nil, fmt.Errorf("the hub did not answer within %v", welcomeTimeout)
	case r := <-recv:
		if r.err != nil {
			return nil, explainSession(r.err)
		}
		return s.judge(r.msg)
	}
}

// judge is what is thought of the hub's first message.
func (s *session) judge(m *federationv1.HubMessage) (*federationv1.Welcome, error) {
	w := m.GetWelcome()
	if w == nil {
		return nil, fmt.Errorf("the hub did not begin with a welcome")
	}
	ok, err := s.holder.sawEpoch(w.Epoch)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("the hub is of epoch %d, but this member has seen %d: it was restored from an old backup (raise the number in the file epoch of the hub's data folder above %d)",
			w.Epoch, s.holder.now().epoch, s.holder.now().epoch)
	}
	return w, nil
}

// run tells what is new and takes what comes until the session fails.
func (s *session) run(ctx context.Context, w *federationv1.Welcome, recv <-chan received) error {
	if err := s.begin(w); err != nil {
		return err
	}
	interval := time.Duration(w.HeartbeatSeconds) * time.Second
	if interval <= 0 || interval > time.Hour {
		interval = 10 * time.Second
	}
	heartbeat := time.NewTicker(interval)
	defer heartbeat.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case r := <-recv:
			if r.err != nil {
				return explainSession(r.err)
			}
			if err := s.handle(r.msg); err != nil {
				return err
			}
		case <-s.pic.changed:
			if !sleep(ctx, reportDelay) {
				return ctx.Err()
			}
			if err := s.report(); err != nil {
				return err
			}
		case <-s.again:
			return errors.New("an update could not be kept, asking for it again")
		case <-heartbeat.C:
			if err := s.heartbeat(); err != nil {
				return err
			}
		}
	}
}

// begin answers the welcome.
func (s *session) begin(w *federationv1.Welcome) error {
	if w.WantInventory {
		if err := s.sendInventory(); err != nil {
			return err
		}
	}
	return s.report()
}

func (s *session) heartbeat() error {
	return s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Heartbeat{
		Heartbeat: &federationv1.Heartbeat{HeldHash: s.holder.now().hash},
	}})
}

// report sends what changed since the last one, if anything did.
func (s *session) report() error {
	v := s.pic.now()
	if s.applying.look(v) {
		s.applying = nil
	}
	r := v.report(s.sent)
	s.sent = v
	if r == nil {
		return nil
	}
	return s.sendReport(r)
}

func (s *session) sendReport(r *federationv1.Report) error {
	for _, part := range split(r, maxReport) {
		if err := s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Report{Report: part}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) sendInventory() error {
	return s.send(&federationv1.AgentMessage{Body: &federationv1.AgentMessage_Inventory{Inventory: s.holder.now().inventory()}})
}

// handle takes one message of the hub.
func (s *session) handle(m *federationv1.HubMessage) error {
	u := m.GetUpdate()
	if u == nil {
		s.log.Debug("the hub sent something that this version does not know")
		return nil
	}
	came := time.Now()
	v, reason, now := s.holder.accept(u)
	result := resultOf(v, u, now)
	s.metrics.updates.WithLabelValues(result).Inc()
	switch v {
	case unknownBase:
		s.log.Info("the hub was mistaken about what this member holds, telling it", "base", u.BaseHash, "held", now.hash)
		return s.sendInventory()
	case refused, unsaved:
		s.log.Error("an update of the hub was refused as a whole; nothing was changed", "reason", reason)
		if v == unsaved {
			// A hub sends what was refused again in the next session only.
			s.again = time.After(backoffLimit)
		}
		return s.sendReport(&federationv1.Report{HeldHash: now.hash, Refusal: reason, RefusalCode: result})
	default:
		s.log.Info("new state", "held", now.hash, "changed", len(u.Upserts), "removed", len(u.Removals))
		journalled := time.Now()
		s.metrics.journal.Observe(journalled.Sub(came).Seconds())
		s.applying = s.applying.then(follow(s.metrics, s.tracer, u, came, journalled))
		s.pic.hold(now)
		s.updated()
		return s.report()
	}
}

// retryLater is a refusal of a hub that told when to come back.
type retryLater struct {
	error
	after time.Duration
}

func (r retryLater) Unwrap() error { return r.error }

// maxRetryAfter bounds what a hub can tell.
const maxRetryAfter = time.Minute

// retryTold is what the hub told with its refusal; 0: nothing.
func retryTold(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return min(max(info.GetRetryDelay().AsDuration(), 0), maxRetryAfter)
		}
	}
	return 0
}

// explainSession says what the hub's refusal of a session means.
func explainSession(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	switch st.Code() {
	case codes.Unauthenticated, codes.PermissionDenied:
		return refusal(st.Code(), "the hub refuses this member: %s (if it was removed on purpose, stop this agent; to join again remove its data folder's identity and use a new join token)", st.Message())
	case codes.FailedPrecondition:
		return refusal(st.Code(), "the hub refuses the session: %s", st.Message())
	case codes.OK:
		return io.EOF
	}
	err = fmt.Errorf("%s: %s", st.Code(), st.Message())
	if strings.Contains(st.Message(), "certificate has expired or is not yet valid") { // of x509, through gRPC as text
		err = fmt.Errorf("%w (is the clock of this machine right?)", err)
	}
	if after := retryTold(st); after > 0 {
		return retryLater{err, after}
	}
	return err
}

// refusedError is the hub's refusal of a session.
type refusedError struct {
	code codes.Code
	text string
}

func (e *refusedError) Error() string { return e.text }

func refusal(code codes.Code, format string, args ...any) error {
	return &refusedError{code, fmt.Sprintf(format, args...)}
}

// refusedWith is the code of a refusal, else OK.
func refusedWith(err error) codes.Code {
	var r *refusedError
	if errors.As(err, &r) {
		return r.code
	}
	return codes.OK
}

// quietly lets a repeated message through at most so often.
type quietly struct {
	every time.Duration
	last  time.Time
}

func (q *quietly) speak(now time.Time) bool {
	if !q.last.IsZero() && now.Sub(q.last) < q.every {
		return false
	}
	q.last = now
	return true
}

func (q *quietly) reset() { q.last = time.Time{} }
