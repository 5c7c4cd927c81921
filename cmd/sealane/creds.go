package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// defaultAgentData is the data folder of sealane-agent.
const defaultAgentData = "/var/lib/sealane/agent"

func credsCommand(env *environment) *cobra.Command {
	var dir string
	var url, path bool
	c := &cobra.Command{
		Use:   "creds MEMBER ACCOUNT",
		Short: "Print the credentials with which applications connect to a member on this machine",
		Long: `Print the credentials with which applications connect to a member on this
machine: a NATS creds file, made by the member's agent in its data folder. They
never leave the member, so this works only where the agent runs, for users who
may read that folder.`,
		Example: `  sealane creds berlin shop > shop.creds
  nats --server $(sealane creds berlin shop --url) --creds $(sealane creds berlin shop --path) sub '>'`,
		Args: arguments(cobra.ExactArgs(2)),
		RunE: func(_ *cobra.Command, args []string) error {
			folder, err := agentFolder(dir, args[0])
			if err != nil {
				return err
			}
			file := filepath.Join(folder, "creds", args[1]+".creds")
			creds, err := readCreds(folder, file, args[0], args[1])
			if err != nil {
				return err
			}
			switch {
			case url:
				file = filepath.Join(folder, "url")
				b, err := os.ReadFile(file)
				if err != nil {
					return fmt.Errorf("the agent of %s has not written its client URL yet, which it does when its broker listens: %w", args[0], err)
				}
				_, err = fmt.Fprintln(env.out, strings.TrimSpace(string(b)))
				return err
			case path:
				_, err = fmt.Fprintln(env.out, file)
			default:
				_, err = env.out.Write(creds)
			}
			return err
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
			var names []string
			switch len(args) {
			case 0:
				names = membersHere(dir)
			case 1:
				if folder, err := agentFolder(dir, args[0]); err == nil {
					names = accountsIn(folder)
				}
			}
			return offer(names, nil, prefix), cobra.ShellCompDirectiveNoFileComp
		},
	}
	c.Flags().StringVar(&dir, "dir", defaultAgentData, "the agent's data folder, or a folder with members/MEMBER in it")
	c.Flags().BoolVar(&url, "url", false, "print the member's client URL instead")
	c.Flags().BoolVar(&path, "path", false, "print the path of the creds file instead")
	c.MarkFlagsMutuallyExclusive("url", "path")
	return c
}

// agentFolder finds the data folder of a member's agent: dir/members/MEMBER, or
// dir itself.
func agentFolder(dir, member string) (string, error) {
	if !dnsLabel.MatchString(member) || len(member) > 63 {
		return "", fmt.Errorf("%q is no name of a member: want a-z, 0-9 and '-', at most 63 characters", member)
	}
	below := filepath.Join(dir, "members", member)
	if isAgentFolder(below) {
		return below, nil
	}
	if isAgentFolder(dir) {
		if owner := ownerOf(dir); owner != "" && owner != member {
			return "", fmt.Errorf("%s is the data folder of the member %s, not of %s", dir, owner, member)
		}
		return dir, nil
	}
	if here := membersHere(dir); len(here) > 0 {
		return "", fmt.Errorf("no member %q in %s; there are: %s", member, dir, strings.Join(here, ", "))
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrPermission) || errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("%w: run this where the agent of %s runs, with --dir naming its data folder", err, member)
	}
	return "", fmt.Errorf("%s is no data folder of an agent: pass --dir with the folder that sealane-agent --data names", dir)
}

func isAgentFolder(dir string) bool {
	for _, name := range []string{"creds", "identity"} {
		if s, err := os.Stat(filepath.Join(dir, name)); err == nil && s.IsDir() {
			return true
		}
	}
	return false
}

func readCreds(folder, file, member, account string) ([]byte, error) {
	if !dnsLabel.MatchString(account) {
		return nil, fmt.Errorf("%q is no name of an account: want a-z, 0-9 and '-'", account)
	}
	creds, err := os.ReadFile(file)
	switch {
	case err == nil:
		return creds, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%w: run this as the user that the agent runs as", err)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	accounts := accountsIn(folder)
	if len(accounts) == 0 {
		return nil, fmt.Errorf("%s has no accounts yet: they come with a topology that the member is part of (see: sealane get members %s)", member, member)
	}
	return nil, fmt.Errorf("%s has no account %q; there are: %s", member, account, strings.Join(accounts, ", "))
}

func accountsIn(folder string) []string {
	files, _ := filepath.Glob(filepath.Join(folder, "creds", "*.creds")) // the pattern is good
	for i, f := range files {
		files[i] = strings.TrimSuffix(filepath.Base(f), ".creds")
	}
	slices.Sort(files)
	return files
}

// membersHere lists the members whose data folders are in dir/members, or the
// one whose folder dir is.
func membersHere(dir string) []string {
	entries, _ := os.ReadDir(filepath.Join(dir, "members")) // not there: none
	var names []string
	for _, e := range entries {
		if isAgentFolder(filepath.Join(dir, "members", e.Name())) {
			names = append(names, e.Name())
		}
	}
	if owner := ownerOf(dir); owner != "" {
		names = append(names, owner)
	}
	return names
}

// ownerOf is the member whose certificate is in an agent's data folder, or "".
func ownerOf(folder string) string {
	b, err := os.ReadFile(filepath.Join(folder, "identity", "cert.pem"))
	if err != nil {
		return ""
	}
	block, _ := pem.Decode(b)
	if block == nil {
		return ""
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || len(cert.URIs) != 1 {
		return ""
	}
	name, ok := strings.CutPrefix(cert.URIs[0].Path, "/cluster/")
	if !ok {
		return ""
	}
	return name
}
