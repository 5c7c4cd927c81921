package demo

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// The system gives ports from 32768 on to outgoing connections. A process that
// is ended and started again must find its port free, so ports come from below.
const (
	firstPort = 15000
	lastPort  = 32000
)

// freePorts finds n addresses on the loopback interface at which nobody listens.
func freePorts(n int) ([]string, error) {
	held := make([]net.Listener, 0, n)
	defer func() {
		for _, l := range held {
			l.Close()
		}
	}()
	addrs := make([]string, 0, n)
	for range 1000 {
		if len(addrs) == n {
			return addrs, nil
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(firstPort+rand.IntN(lastPort-firstPort))) //nolint:gosec // a port is no secret
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		held = append(held, l)
		addrs = append(addrs, addr)
	}
	return nil, errors.New("no free ports on 127.0.0.1")
}
