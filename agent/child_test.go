package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/sealane/sealane/e2e/child"
)

// childEnv makes the test binary run as an agent, with the options in the file
// child.json of the folder that it names.
const childEnv = "SEALANE_TEST_AGENT_DIR"

// childOptions are the options of an agent in a process of its own.
type childOptions struct {
	Name, Hub, Token, ClientListen, LinkListen string
}

func childMain(dir string) int {
	b, err := os.ReadFile(filepath.Join(dir, "child.json"))
	var o childOptions
	if err == nil {
		err = json.Unmarshal(b, &o)
	}
	if err == nil {
		err = Run(context.Background(), Options{
			Name: o.Name, Hub: o.Hub, Token: o.Token, DataDir: dir,
			ClientListen: o.ClientListen, LinkListen: o.LinkListen, Version: "child",
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// spawn runs an agent in a process of its own.
func spawn(t *testing.T, dir string, o childOptions) *exec.Cmd {
	t.Helper()
	b, err := json.Marshal(o)
	check(t, err)
	check(t, os.WriteFile(filepath.Join(dir, "child.json"), b, 0o600))
	log, err := os.OpenFile(filepath.Join(dir, "child.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	check(t, err)
	defer log.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	cmd.Stderr = log
	check(t, child.Start(cmd))
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			b, _ := os.ReadFile(log.Name())
			t.Logf("log of the child:\n%s", b)
		}
	})
	return cmd
}

func TestSurvivesKill(t *testing.T) {
	t.Parallel()
	hub := startHub(t, newCA(t))
	hub.want("tokyo", accountPart("app"), ordersPart())
	dir := t.TempDir()
	o := childOptions{Name: "tokyo", Hub: hub.addr, Token: hub.token.String(), ClientListen: "127.0.0.1:0", LinkListen: "127.0.0.1:0"}
	cmd := spawn(t, dir, o)
	hub.applied("tokyo")
	nc := connectApp(t, dir, "app")
	const rounds = 5
	for i := range rounds {
		for n := range 20 {
			_, err := nc.Request(fmt.Sprintf("orders.%d.%d", i, n), []byte("x"), 5*time.Second) // acknowledged by the stream
			check(t, err)
		}
		if i == rounds/2 {
			hub.stop() // the rest goes without
		}
		check(t, cmd.Process.Kill())
		_ = cmd.Wait()
		start := time.Now()
		cmd = spawn(t, dir, childOptions{ClientListen: o.ClientListen, LinkListen: o.LinkListen})
		eventually(t, "the client is back", func() error {
			_, err := nc.Request("orders.back", nil, time.Second)
			return err
		})
		t.Logf("round %d: back after %v", i, time.Since(start).Round(time.Millisecond))
	}
	js := mustJS(t, nc)
	info, err := streamInfo(js, "ORDERS")
	check(t, err)
	if want := uint64(rounds * 20); info.State.Msgs < want {
		t.Errorf("%d messages; at least %d were acknowledged", info.State.Msgs, want)
	}
}
