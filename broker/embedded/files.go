package embedded

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/sealane/sealane/broker"
)

// listener is an address to listen on. Its port may be -1: to be chosen.
type listener struct {
	host string
	port int
}

func (l listener) enabled() bool { return l.port != 0 }

func parseListener(addr string) (listener, error) {
	if addr == "" {
		return listener{}, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return listener{}, err
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 0 || n > 65535 {
		return listener{}, fmt.Errorf("%q is not a port", port)
	}
	if host == "" {
		host = "0.0.0.0"
	}
	if n == 0 {
		n = -1
	}
	return listener{host: host, port: n}, nil
}

// ports are the ports that were chosen for listeners without one. They are kept:
// clients and peers find the member where it was.
type ports struct {
	Client int `json:"client,omitempty"`
	Link   int `json:"link,omitempty"`
}

func loadPorts(path string) (ports, error) {
	var p ports
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return ports{}, fmt.Errorf("%s is damaged (remove it to have ports chosen anew): %w", path, err)
	}
	return p, nil
}

func (p ports) save(path string) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return broker.WriteFile(path, b, 0o600)
}

// resolve gives l the port that was chosen for it before, if it is still free.
func (l *listener) resolve(chosen int) {
	if l.port != -1 || chosen <= 0 {
		return
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(l.host, strconv.Itoa(chosen)))
	if err != nil {
		return
	}
	ln.Close()
	l.port = chosen
}

// writeCreds writes the credentials of a remote and returns their path. Another
// token gives another path, and so another remote: it connects anew instead of
// going on with what it was let in with.
func writeCreds(dir string, user broker.KeyPair, r broker.Remote) (string, error) {
	content, err := broker.FormatCreds(r.JWT, user)
	if err != nil {
		return "", fmt.Errorf("the peer's grant cannot be used: %w", err)
	}
	identity := r.JWT
	if r.Proxy != nil {
		identity += "\n" + r.Proxy.String() // another proxy too is another remote for NATS
	}
	sum := sha256.Sum256([]byte(identity))
	side := "in"
	switch {
	case r.Out && r.Spoke:
		// NATS cannot reload the role of a remote, only replace a remote by one of
		// another name, which this is part of.
		side = "out-spoke"
	case r.Out:
		side = "out"
	}
	if r.Shared {
		side += "-shared" // nor this
	}
	path := filepath.Join(dir, fmt.Sprintf("%s.%s.%s.creds", r.Peer, side, hex.EncodeToString(sum[:6])))
	if have, err := os.ReadFile(path); err == nil && string(have) == string(content) {
		return path, nil
	}
	return path, broker.WriteFile(path, content, 0o600)
}

// removeCreds removes the credentials in dir that are not in keep.
func removeCreds(dir string, keep map[string]bool) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		path := filepath.Join(dir, f.Name())
		if strings.HasSuffix(path, ".creds") && !keep[path] {
			errs = append(errs, os.Remove(path))
		}
	}
	return errors.Join(errs...)
}
