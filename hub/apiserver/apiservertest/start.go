// Package apiservertest gives tests a real API server that serves Sealane's
// kinds: one for all tests of a binary, started by the first that asks.
package apiservertest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/sealane/sealane/hub/apiserver"
)

var shared struct {
	once   sync.Once
	server *apiserver.Server
	dir    string
	err    error
}

// Main runs the tests and then stops the shared server, if a test started it.
// Call it from TestMain, as os.Exit(apiservertest.Main(m)), so that nothing is
// left in the temporary folder.
func Main(m *testing.M) int {
	code := m.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the shared API server:", err)
		code = max(code, 1)
	}
	return code
}

// Start returns a client configuration with all rights at the server that the
// tests of this binary share. The tests must therefore use names that do not
// clash, and Main. For a server of its own a test uses apiserver.Start.
func Start(t testing.TB) *rest.Config {
	t.Helper()
	return server(t).RESTConfig()
}

// Kubeconfig returns the path of a kubeconfig for the shared server.
func Kubeconfig(t testing.TB) string {
	t.Helper()
	return server(t).KubeconfigPath()
}

func server(t testing.TB) *apiserver.Server {
	t.Helper()
	shared.once.Do(func() { shared.err = start() })
	if shared.err != nil {
		t.Fatalf("start the shared API server: %v", shared.err)
	}
	return shared.server
}

func start() (err error) {
	if shared.dir, err = os.MkdirTemp("", "sealane-apiserver-"); err != nil {
		return err
	}
	shared.server, err = apiserver.Start(context.Background(), apiserver.Options{
		DataDir: shared.dir,
		Listen:  "127.0.0.1:0",
		Kinds:   true,
		Log:     slog.New(slog.DiscardHandler),
	})
	return err
}

func stop() error {
	var err error
	if shared.server != nil {
		err = shared.server.Close()
	}
	if shared.dir != "" {
		_ = os.RemoveAll(shared.dir)
	}
	return err
}
