// Command capfit is an OCI runtime that stands before runc on a machine whose
// root lacks capabilities that the kernel knows: in some containers and virtual
// machines that is CAP_SYS_RESOURCE.
//
// A privileged container asks for every capability, and runc refuses what it
// cannot give. capfit takes out of the request what this process lacks itself,
// and hands over to runc. It never adds anything.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// capabilities in the kernel's order: bit n of CapBnd is the n-th.
var capabilities = strings.Fields(`
	CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID
	CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER
	CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE
	CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP
	CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF
	CAP_CHECKPOINT_RESTORE`)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "capfit:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if file, within := request(args); file != "" {
		lacks, err := missing("/proc/self/status")
		if err != nil {
			return err
		}
		if err := fit(file, within, lacks); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	return syscall.Exec(runc, append([]string{runc}, args...), os.Environ())
}

// request finds the file that asks for capabilities, and the field of it that
// holds the process ("": the file is the process).
func request(args []string) (file, within string) {
	switch {
	case slices.Contains(args, "create"), slices.Contains(args, "run"), slices.Contains(args, "restore"):
		if bundle := option(args, "bundle", "b"); bundle != "" {
			return filepath.Join(bundle, "config.json"), "process"
		}
	case slices.Contains(args, "exec"):
		return option(args, "process", "p"), ""
	}
	return "", ""
}

// option finds the value of "--name value", "--name=value" and the short forms.
func option(args []string, names ...string) string {
	for i, arg := range args {
		name, value, joined := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if !strings.HasPrefix(arg, "-") || !slices.Contains(names, name) {
			continue
		}
		if joined {
			return value
		}
		if i+1 < len(args) {
			return args[i+1]
		}
	}
	return ""
}

// missing lists the capabilities outside the bounding set in a file like
// /proc/self/status.
func missing(status string) ([]string, error) {
	raw, err := os.ReadFile(status)
	if err != nil {
		return nil, err
	}
	_, rest, ok := strings.Cut(string(raw), "CapBnd:")
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return nil, errors.New("no CapBnd in " + status)
	}
	bounding, err := strconv.ParseUint(fields[0], 16, 64)
	if err != nil {
		return nil, err
	}
	var lacks []string
	for bit, name := range capabilities {
		if bounding>>bit&1 == 0 {
			lacks = append(lacks, name)
		}
	}
	return lacks, nil
}

// fit takes capabilities out of the request. Everything else stays as it was,
// byte for byte.
func fit(file, within string, lacks []string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var doc, process map[string]json.RawMessage
	if err := json.Unmarshal(raw, &doc); err != nil {
		return err
	}
	process = doc
	if within != "" {
		process = nil // or what follows would go into doc
		if err := json.Unmarshal(doc[within], &process); err != nil {
			return err
		}
	}
	if process["capabilities"] == nil {
		return nil
	}
	var sets map[string][]string
	if err := json.Unmarshal(process["capabilities"], &sets); err != nil {
		return err
	}
	changed := false
	for name, set := range sets {
		kept := slices.DeleteFunc(slices.Clone(set), func(c string) bool { return slices.Contains(lacks, c) })
		changed = changed || len(kept) < len(set)
		sets[name] = kept
	}
	if !changed {
		return nil
	}
	if process["capabilities"], err = json.Marshal(sets); err != nil {
		return err
	}
	if within != "" {
		if doc[within], err = json.Marshal(process); err != nil {
			return err
		}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		return err
	}
	return os.WriteFile(file, out, 0o600)
}
