package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/sealane/sealane/e2e/child"
	"github.com/sealane/sealane/hub/apiserver"
)

// apiServer, as first argument, makes of this program an API server with our kinds
// and nothing else: what a hub takes beside that of a cluster is measured with it.
const apiServer = "api-server"

func runAPIServer(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	s, err := apiserver.Start(ctx, apiserver.Options{DataDir: args[0], Listen: "127.0.0.1:0", Kinds: true})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	<-ctx.Done()
	if err := s.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// process is a program that was started.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
}

// start starts a program, which dies with this one, and appends what it says to a
// file.
func (p *process) start(program, args []string, log string) error {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	p.cmd = exec.Command(program[0], append(program[1:len(program):len(program)], args...)...) //nolint:noctx // it is killed, and waited for
	p.cmd.Stderr, p.cmd.Stdout = out, out
	if err := child.Start(p.cmd); err != nil {
		return err
	}
	p.exited = make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // whoever waits for exited knows why it ended
		close(p.exited)
	}()
	return nil
}

// await asks until the process is ready.
func (p *process) await(ctx context.Context, what, log string, ready func() (bool, error)) error {
	return poll(ctx, 2*time.Minute, 5*time.Millisecond, what+" is ready", func() (bool, error) {
		select {
		case <-p.exited:
			return false, fmt.Errorf("%s ended: see %s", what, log)
		default:
			return ready()
		}
	})
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends the process as a crash would.
func (p *process) kill() {
	if p.cmd != nil {
		_ = p.cmd.Process.Kill() // it may be gone
		<-p.exited
	}
}

// startAPI starts an API server, and returns the file that leads to it once it is
// ready.
func startAPI(ctx context.Context, dir string) (_ *process, kubeconfig string, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, "", err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, "", err
	}
	p, log := &process{}, dir+".log"
	if err := p.start([]string{self, apiServer}, []string{dir}, log); err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			p.kill()
		}
	}()
	kubeconfig = filepath.Join(dir, "kubeconfig")
	return p, kubeconfig, p.await(ctx, "the API server", log, func() (bool, error) {
		cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			if errors.Is(err, os.ErrNotExist) {
				err = nil
			}
			return false, err
		}
		return readyz(cfg)
	})
}

func readyz(cfg *rest.Config) (bool, error) {
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return false, err
	}
	resp, err := client.Get(cfg.Host + "/readyz") //nolint:noctx // loopback, and polled
	if err != nil {
		return false, nil
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode == http.StatusOK, err
}
