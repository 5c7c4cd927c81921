package apiserver_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
	"github.com/sealane/sealane/e2e/child"
)

// childOn is a process of its own that serves from dir.
func childOn(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	return cmd
}

// startChild returns when the child serves.
func startChild(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	cmd := childOn(t, dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the child said %q: %v", line, err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	return cmd
}

// TestKill: what was acknowledged survives kill -9 in the midst of writing, and
// nothing has to be cleaned up by hand.
func TestKill(t *testing.T) {
	dir := t.TempDir()
	host := ""
	var acknowledged []string
	for round := range 3 {
		cmd := startChild(t, dir)
		cfg := fromKubeconfig(t, filepath.Join(dir, "kubeconfig"))
		if host == "" {
			host = cfg.Host
		}
		if cfg.Host != host {
			t.Fatalf("serves at %s after a kill, before at %s", cfg.Host, host)
		}
		cfg.QPS = -1
		c := newClient(t, cfg)
		for _, name := range acknowledged {
			if err := c.Get(t.Context(), client.ObjectKey{Name: name}, &v1alpha1.MemberCluster{}); err != nil {
				t.Fatalf("acknowledged before a kill: %v", err)
			}
		}

		names := make(chan string, 1000)
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() {
				for i := 0; ; i++ {
					m := &v1alpha1.MemberCluster{}
					m.Name = fmt.Sprintf("m-%d-%d-%d", round, w, i)
					if c.Create(t.Context(), m) != nil {
						return // killed
					}
					names <- m.Name
				}
			})
		}
		for range 40 {
			acknowledged = append(acknowledged, <-names)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		writers.Wait()
		close(names)
		for name := range names {
			acknowledged = append(acknowledged, name)
		}
		_ = cmd.Wait()
	}
	c := newClient(t, start(t, dir).RESTConfig())
	var all v1alpha1.MemberClusterList
	if err := c.List(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, m := range all.Items {
		have[m.Name] = true
	}
	for _, name := range acknowledged {
		if !have[name] {
			t.Errorf("%s was acknowledged and is gone", name)
		}
	}
}
