package e2e

import (
	"bufio"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/broker"
)

// thief has what a member's data folder holds.
type thief struct {
	keyring *broker.Keyring
	cert    tls.Certificate
	config  *tls.Config
}

// steal reads the data folder of a member.
func steal(t testing.TB, f *federation, dir string) *thief {
	t.Helper()
	keyring, err := broker.LoadOrCreateKeyring(filepath.Join(dir, "seed"))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "identity", "cert.pem"), filepath.Join(dir, "identity", "key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	return &thief{keyring: keyring, cert: cert, config: &tls.Config{
		Certificates: []tls.Certificate{cert}, RootCAs: f.authorities(), MinVersion: tls.VersionTLS13,
		ServerName: federationv1.MemberDNSName("sealane.local", "berlin"),
	}}
}

// rawLeaf speaks the leafnode protocol by hand and keeps none of its rules.
type rawLeaf struct {
	conn *tls.Conn

	mu   sync.Mutex
	subs []string
	msgs []string
	// replies are where the answers to msgs are awaited, "" for those that await none.
	replies []string
	pongs   int
	alive   bool // it answers probes of the link, which would be made anew else
	err     error
}

// dialLeaf connects with a user JWT, as a server of that JetStream domain.
func dialLeaf(address string, config *tls.Config, user broker.KeyPair, token, domain string) (*rawLeaf, error) {
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		return nil, err
	}
	r := &rawLeaf{conn: conn}
	if err := r.greet(user, token, domain); err != nil {
		conn.Close()
		return nil, err
	}
	return r, nil
}

func (r *rawLeaf) greet(user broker.KeyPair, token, domain string) error {
	if err := r.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		return err
	}
	in := bufio.NewReader(r.conn)
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	var info struct {
		Nonce string `json:"nonce"`
	}
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	sig, err := user.Sign([]byte(info.Nonce))
	if err != nil {
		return err
	}
	r.send(fmt.Sprintf("CONNECT {\"jwt\":%q,\"sig\":%q,\"headers\":true,\"name\":\"evil\",\"version\":\"2.15.2\",\"domain\":%q,\"jetstream\":true}\r\nPING",
		token, base64.RawURLEncoding.EncodeToString(sig), domain))
	up := make(chan error, 1)
	go r.read(in, up)
	select {
	case err = <-up:
	case <-time.After(20 * time.Second):
		err = errors.New("no answer")
	}
	if err != nil {
		return err
	}
	return r.conn.SetReadDeadline(time.Time{})
}

// read takes what comes until the connection ends; up gets the first outcome.
func (r *rawLeaf) read(in *bufio.Reader, up chan<- error) {
	outcome := func(err error) {
		select {
		case up <- err:
		default:
		}
	}
	for {
		err := r.readOne(in, outcome)
		if err != nil {
			r.mu.Lock()
			r.err = err
			r.mu.Unlock()
			outcome(err)
			return
		}
	}
}

func (r *rawLeaf) readOne(in *bufio.Reader, outcome func(error)) error {
	line, err := in.ReadString('\n')
	if err != nil {
		return err
	}
	line = strings.TrimRight(line, "\r\n")
	f := strings.Fields(line)
	switch {
	case line == "PING":
		r.send("PONG")
	case line == "PONG":
		r.mu.Lock()
		r.pongs++
		r.mu.Unlock()
		outcome(nil)
	case strings.HasPrefix(line, "-ERR"):
		return errors.New(line)
	case strings.HasPrefix(line, "LS+ "):
		r.mu.Lock()
		r.subs = append(r.subs, f[1])
		r.mu.Unlock()
	case strings.HasPrefix(line, "LMSG "), strings.HasPrefix(line, "HMSG "):
		n, err := strconv.Atoi(f[len(f)-1])
		if err != nil {
			return err
		}
		body := make([]byte, n+2)
		if _, err := io.ReadFull(in, body); err != nil {
			return err
		}
		r.mu.Lock()
		r.msgs = append(r.msgs, f[1]+" "+string(body[:n]))
		r.replies = append(r.replies, replyOf(f))
		alive := r.alive
		r.mu.Unlock()
		if alive && f[1] == "pq" {
			r.publish("pr", "", string(body[:n]))
		}
	}
	return nil
}

// replyOf is the reply subject in the first line of a message: it comes after the
// subject, or after that and a sign that queue groups follow.
func replyOf(f []string) string {
	numbers := 1
	if f[0] == "HMSG" {
		numbers = 2
	}
	switch rest := f[2 : len(f)-numbers]; {
	case len(rest) == 0 || rest[0] == "|":
		return ""
	case rest[0] == "+":
		return rest[1]
	default:
		return rest[0]
	}
}

func (r *rawLeaf) send(line string) { fmt.Fprintf(r.conn, "%s\r\n", line) }

func (r *rawLeaf) publish(subject, reply, data string) {
	if reply != "" {
		subject += " " + reply
	}
	r.send(fmt.Sprintf("LMSG %s %d\r\n%s", subject, len(data), data))
}

// ask sends a request to the responders in the queue group "all".
func (r *rawLeaf) ask(subject, reply string) {
	r.send(fmt.Sprintf("LMSG %s + %s all 5\r\nasked", subject, reply))
}

// settle waits until the server has looked at all that was sent.
func (r *rawLeaf) settle(t testing.TB) {
	t.Helper()
	answers := func() (int, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.pongs, r.err
	}
	before, _ := answers()
	r.send("PING")
	eventually(t, 30*time.Second, "the server has looked at all", func() error {
		if now, err := answers(); now > before || err != nil {
			return err
		}
		return errors.New("no answer")
	})
}

// learnt is the interest that it was told of, the messages that it was sent,
// and why its connection ended.
func (r *rawLeaf) learnt() (subs, msgs []string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.subs), slices.Clone(r.msgs), r.err
}

// copyFolder copies what a thief would.
func copyFolder(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "stolen")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(to, "seed"), 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}
