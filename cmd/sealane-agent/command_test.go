package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/sealane/sealane/agent"
)

func parse(t *testing.T, env map[string]string, args ...string) (*flags, error) {
	t.Helper()
	f := &flags{}
	fs := pflag.NewFlagSet("sealane-agent", pflag.ContinueOnError)
	f.register(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if err := fromEnvironment(fs, func(k string) (string, bool) { v, ok := env[k]; return v, ok }); err != nil {
		return nil, err
	}
	return f, f.complete(fs, &bytes.Buffer{})
}

func TestFlags(t *testing.T) {
	dir := t.TempDir()
	token := filepath.Join(dir, "token")
	if err := os.WriteFile(token, []byte(" slj1.a.b.c\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := parse(t, map[string]string{
		"SEALANE_NAME": "osaka", "SEALANE_HUB": "hub:7443", "SEALANE_TOKEN_FILE": token,
		"SEALANE_ADVERTISE": "a:1,b:2", "SEALANE_LINK_LISTEN": ":7422", "SEALANE_LOG_FORMAT": "json",
	}, "--name", "tokyo", "--data", dir)
	if err != nil {
		t.Fatal(err)
	}
	if f.Name != "tokyo" || f.Hub != "hub:7443" || f.Token != "slj1.a.b.c" || f.DataDir != dir || f.LinkListen != ":7422" ||
		!slices.Equal(f.Advertise, []string{"a:1", "b:2"}) || f.ClientListen != "127.0.0.1:4222" || f.Log == nil {
		t.Errorf("%+v", f.Options)
	}
	if f, err := parse(t, nil, "--advertise", "a:1", "--advertise", "b:2", "--token-file", filepath.Join(dir, "gone")); err != nil || len(f.Advertise) != 2 || f.Token != "" {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestMetricsAddress: whoever chooses an address for metrics means it, also if it is
// the default.
func TestMetricsAddress(t *testing.T) {
	for _, tc := range []struct {
		env    map[string]string
		args   []string
		ifFree bool
	}{
		{ifFree: true},
		{args: []string{"--metrics-listen", agent.DefaultMetricsListen}},
		{env: map[string]string{"SEALANE_METRICS_LISTEN": agent.DefaultMetricsListen}},
	} {
		f, err := parse(t, tc.env, tc.args...)
		if err != nil || f.MetricsListen != agent.DefaultMetricsListen || f.MetricsIfFree != tc.ifFree {
			t.Errorf("%v %v: %+v, %v", tc.env, tc.args, f.Options, err)
		}
	}
}

func TestFlagsRefused(t *testing.T) {
	for _, tc := range []struct {
		env  map[string]string
		args []string
		want string
	}{
		{args: []string{"--token", "x", "--token-file", "y"}, want: "give one of them"},
		{args: []string{"--token-file", "."}, want: "--token-file"},
		{args: []string{"--client-tls-cert", "x"}, want: "belong together"},
		{args: []string{"--client-tls-cert", "x", "--client-tls-key", "y"}, want: "--client-tls-cert"},
		{args: []string{"--runtime", "docker"}, want: `--runtime "docker"`},
		{args: []string{"--log-level", "loud"}, want: `--log-level "loud"`},
		{env: map[string]string{"SEALANE_LOG_FORMAT": "xml"}, want: `--log-format "xml"`},
	} {
		if _, err := parse(t, tc.env, tc.args...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v: %v", tc.args, err)
		}
	}
}

func TestCommand(t *testing.T) {
	run := func(args ...string) (string, error) {
		var out bytes.Buffer
		c := newCommand()
		c.SetArgs(args)
		c.SetOut(&out)
		c.SetErr(&out)
		err := c.Execute()
		return out.String(), err
	}
	if out, err := run("--help"); err != nil || !strings.Contains(out, "SEALANE_NAME") || !strings.Contains(out, "--token-file") {
		t.Errorf("help: %v\n%s", err, out)
	}
	if out, err := run("--version"); err != nil || !strings.Contains(out, version) {
		t.Errorf("version: %v %s", err, out)
	}
	for _, args := range [][]string{{"--nonsense"}, {"--log-level", "loud"}} {
		_, err := run(args...)
		if err == nil || exitCode(err) != exitUsage {
			t.Errorf("%v: %v", args, err)
		}
	}
	if out, err := run("broker", "--help"); err != nil || !strings.Contains(out, "--control-listen") {
		t.Errorf("broker help: %v\n%s", err, out)
	}
	if _, err := run("broker"); err == nil || exitCode(err) != exitUsage {
		t.Errorf("broker without a name: %v", err)
	}
	if _, err := run("--runtime", "statefulset", "--data", t.TempDir()); err == nil || !strings.Contains(err.Error(), "--broker-template") {
		t.Errorf("statefulset without a template: %v", err)
	}
	_, err := run("--data", t.TempDir(), "--client-listen", "127.0.0.1:0")
	if err == nil || exitCode(err) != exitFailed || !strings.Contains(err.Error(), "--name") {
		t.Errorf("not enrolled: %v", err)
	}
	if exitCode(errors.New("x")) != exitFailed {
		t.Error("exit code")
	}
}
