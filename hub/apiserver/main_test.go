package apiserver_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"go.uber.org/goleak"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/sealane/sealane/e2e/child"
	"github.com/sealane/sealane/hub/apiserver"
	"github.com/sealane/sealane/hub/apiserver/apiservertest"
	"github.com/sealane/sealane/hub/crds"
)

// childDir, when set, makes the test binary a hub's API server on that folder
// instead, so that a test can kill it.
const childDir = "SEALANE_TEST_APISERVER_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := childMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	ctrllog.SetLogger(logr.Discard())
	goleak.VerifyTestMain(tests{m}, goleak.IgnoreTopFunction(child.Thread))
}

// tests stops the shared server before the leaks are counted.
type tests struct{ m *testing.M }

func (t tests) Run() int { return apiservertest.Main(t.m) }

func childMain(dir string) error {
	s, err := apiserver.Start(context.Background(), apiserver.Options{DataDir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		return err
	}
	if err := crds.Install(context.Background(), s.RESTConfig()); err != nil {
		return err
	}
	fmt.Println("ready")
	return s.Wait()
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
