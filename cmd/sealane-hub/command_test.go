package main

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	// A hub that would start is told at once to stop.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out bytes.Buffer
	cmd := newCommand()
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(ctx)
	return out.String(), err
}

func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string
		code int
	}{
		{"--no-such-flag", "--help", exitUsage},
		{"argument", "unexpected argument", exitUsage},
		{"--log-level loud", "--log-level", exitUsage},
		{"--log-format xml", "--log-format", exitUsage},
		{"--embedded --kubeconfig x", "exclude each other", exitFailed},
	} {
		_, err := execute(t, append(strings.Fields(tt.args), "--data", t.TempDir())...)
		if err == nil || !strings.Contains(err.Error(), tt.want) || exitCode(err) != tt.code {
			t.Errorf("%s: exit %d with %v; want %d with %q", tt.args, exitCode(err), err, tt.code, tt.want)
		}
	}
	if exitCode(errors.New("broken")) != exitFailed {
		t.Error("a failure has another exit status")
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	help, err := execute(t, "--help")
	if err != nil || !strings.Contains(help, "Examples:") {
		t.Fatalf("%v\n%s", err, help)
	}
	newCommand().Flags().VisitAll(func(f *pflag.Flag) {
		if !strings.Contains(help, "--"+f.Name) || f.Usage == "" {
			t.Errorf("--%s is not explained", f.Name)
		}
	})
	version, err := execute(t, "--version")
	if err != nil || !strings.Contains(version, "devel") {
		t.Errorf("--version: %q, %v", version, err)
	}
}
