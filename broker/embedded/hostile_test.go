package embedded

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// rawLeaf speaks the leafnode protocol by hand, as an attacker would who stole a
// member's certificate and link key.
type rawLeaf struct {
	conn *tls.Conn

	mu   sync.Mutex
	subs []string
	msgs []string
	err  error
}

// dialRaw connects with a grant's token. Domain is the JetStream domain that it
// claims to have.
func dialRaw(m *member, c *tls.Config, user broker.KeyPair, token, domain string) (*rawLeaf, error) {
	c = c.Clone()
	c.ServerName = federationv1.MemberDNSName(testDomain, m.name)
	conn, err := tls.Dial("tcp", m.linkAddr(), c)
	if err != nil {
		return nil, err
	}
	r := &rawLeaf{conn: conn}
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	in := bufio.NewReader(conn)
	line, err := in.ReadString('\n')
	if err != nil {
		conn.Close()
		return nil, err
	}
	var info struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		conn.Close()
		return nil, err
	}
	sig, err := user.Sign([]byte(info.Nonce))
	if err != nil {
		conn.Close()
		return nil, err
	}
	fmt.Fprintf(conn, "CONNECT {\"jwt\":%q,\"sig\":%q,\"headers\":true,\"name\":\"evil\",\"version\":\"2.15.2\",\"domain\":%q,\"jetstream\":true}\r\nPING\r\n",
		token, base64.RawURLEncoding.EncodeToString(sig), domain)
	up := make(chan error, 1)
	go r.read(in, up)
	select {
	case err = <-up:
	case <-time.After(10 * time.Second):
		err = errors.New("no answer")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	_ = conn.SetReadDeadline(time.Time{})
	return r, nil
}

func (r *rawLeaf) read(in *bufio.Reader, up chan<- error) {
	fail := func(err error) {
		r.mu.Lock()
		r.err = err
		r.mu.Unlock()
		select {
		case up <- err:
		default:
		}
	}
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			fail(err)
			return
		}
		line = strings.TrimRight(line, "\r\n")
		f := strings.Fields(line)
		switch {
		case line == "PING":
			_, _ = io.WriteString(r.conn, "PONG\r\n")
		case line == "PONG":
			select {
			case up <- nil:
			default:
			}
		case strings.HasPrefix(line, "-ERR"):
			fail(errors.New(line))
		case strings.HasPrefix(line, "LS+ "):
			r.mu.Lock()
			r.subs = append(r.subs, f[1])
			r.mu.Unlock()
		case strings.HasPrefix(line, "LMSG "), strings.HasPrefix(line, "HMSG "):
			n, _ := strconv.Atoi(f[len(f)-1])
			body := make([]byte, n+2)
			if _, err := io.ReadFull(in, body); err != nil {
				fail(err)
				return
			}
			r.mu.Lock()
			r.msgs = append(r.msgs, line+" "+string(body[:n]))
			r.mu.Unlock()
		}
	}
}

func (r *rawLeaf) send(format string, args ...any) { fmt.Fprintf(r.conn, format+"\r\n", args...) }

func (r *rawLeaf) publish(subject, reply, data string) {
	if reply != "" {
		subject += " " + reply
	}
	fmt.Fprintf(r.conn, "LMSG %s %d\r\n%s\r\n", subject, len(data), data)
}

func (r *rawLeaf) snapshot() (subs, msgs []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.subs...), append([]string(nil), r.msgs...), r.err
}

// A member whose agent was stolen reads and writes exactly what its links permit.
func TestHostileLeaf(t *testing.T) {
	ms := startAll(t, "good", "evil", "third")
	good, evil, third := ms["good"], ms["evil"], ms["third"]
	link(t, evil, good)
	link(t, third, good)
	path{good, evil}.forward("app", "orders.>")
	path{evil, good}.forward("app", "orders.>")
	path{third, good}.forward("app", "secret.>")
	setAll(ms)
	third.waitLinks(2)
	evil.shutdown()
	good.waitLinks(2)

	app := good.app("app")
	injected := listen(t, app, ">")
	grants := evil.parts[federationv1.LinkID("good")].GetLink().GetGrant()
	user := evil.keyring.LinkUser()

	for _, domain := range []string{"evil", "good", ""} {
		for side, token := range map[string]string{"out": grants.Out, "in": grants.In} {
			label := fmt.Sprintf("domain %q, %s side", domain, side)
			dial := func() *rawLeaf {
				r, err := dialRaw(good, evil.config.TLS, user, token, domain)
				if err != nil {
					t.Fatalf("%s: %v", label, err)
				}
				r.send("LS+ >")
				return r
			}
			r := dial()
			for _, subject := range []string{
				"secret.1", "fo.third.app.secret.1", "fo.evil.other.orders.1", "fo.evil.app.secret.1", "orders.1",
				"pi.third", "pi.evil", "pa.third", "fo.good.app.orders.1", "re.evil.app._INBOX.x",
			} {
				r.publish(subject, "", "injected")
			}
			r.publish("fedjs.good.app.CONSUMER.RESET.S.c", "_evil.reset", "")
			permitted := "permitted " + label
			if side == "out" {
				eventually(t, label+": what is permitted arrives", func() error {
					r.publish("fo.evil.app.orders.1", "", permitted)
					if injected.count(permitted) == 0 {
						return errors.New("not yet")
					}
					return nil
				})
			} else {
				eventually(t, label+": what is permitted is read", func() error {
					_ = app.Publish("secret.1", []byte("local"))
					_ = app.Publish("orders.1", []byte("local"))
					if _, msgs, _ := r.snapshot(); len(msgs) == 0 {
						return errors.New("not yet")
					}
					return nil
				})
			}
			subs, msgs, err := r.snapshot()
			if err != nil {
				t.Errorf("%s: %v", label, err)
			}
			for _, s := range subs {
				if s != "fo.evil.app.orders.>" && !strings.HasPrefix(s, "$") {
					t.Errorf("%s: it is told of the interest in %s", label, s)
				}
			}
			for _, m := range msgs {
				if side != "in" || m != "LMSG fo.good.app.orders.1 5 local" {
					t.Errorf("%s: it reads %s", label, m)
				}
			}
			r.conn.Close()

			for _, api := range []string{
				"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.good.API.INFO", "$JS.API.CONSUMER.RESET.S.c",
				"$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.REQ.USER.INFO", "$SYS.REQ.CLAIMS.LIST",
			} {
				r := dial()
				r.publish(api, "_evil.answer", "")
				eventually(t, label+": cut off after "+api, func() error {
					if _, _, err := r.snapshot(); err == nil {
						return errors.New("still connected")
					}
					return nil
				})
				if _, msgs, _ := r.snapshot(); len(msgs) > 0 {
					t.Errorf("%s: %s is answered: %s", label, api, msgs)
				}
				r.conn.Close()
			}
		}
	}
	if n := injected.count("injected"); n != 0 {
		t.Errorf("%d messages were injected", n)
	}
}

// A link's credentials are of no use to an ordinary client, and an
// application's are of no use for a link.
func TestCredentialsFitOneDoorOnly(t *testing.T) {
	ms := startAll(t, "good", "evil")
	good, evil := ms["good"], ms["evil"]
	link(t, evil, good)
	evil.waitLinks(2)
	grant := evil.parts[federationv1.LinkID("good")].GetLink().GetGrant()
	user := evil.keyring.LinkUser()
	for _, token := range []string{grant.Out, grant.In} {
		nc, err := nats.Connect(good.rt.ClientURL(), nats.UserJWT(
			func() (string, error) { return token, nil },
			func(nonce []byte) ([]byte, error) { return user.Sign(nonce) }))
		if !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("a client with a link token: %v", err)
		}
		if nc != nil {
			nc.Close()
		}
	}
	creds, err := broker.UserCreds(good.keyring, "app")
	if err != nil {
		t.Fatal(err)
	}
	token, err := nkeys.ParseDecoratedJWT(creds)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := dialRaw(good, evil.config.TLS, good.keyring.AppUser("app"), token, "evil"); err == nil {
		r.conn.Close()
		t.Error("a link was opened with an application's credentials")
	}
	if r, err := dialRaw(good, evil.config.TLS, evil.keyring.AppUser("app"), grant.Out, "evil"); err == nil {
		r.conn.Close()
		t.Error("a link was opened without its key")
	}
}
