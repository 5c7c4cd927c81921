package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestFit(t *testing.T) {
	t.Parallel()
	const status = "Name:\tx\nCapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000000\n"
	for _, tc := range []struct{ name, within, args, in, want string }{
		{
			name: "container", within: "process",
			in:   `{"process":{"args":["a"],"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE"]}},"root":{}}`,
			want: `{"process":{"args":["a"],"capabilities":{"bounding":["CAP_CHOWN"]}},"root":{}}`,
		},
		{
			name: "process",
			in:   `{"args":["a"],"capabilities":{"effective":["CAP_SYS_RESOURCE"]}}`,
			want: `{"args":["a"],"capabilities":{"effective":[]}}`,
		},
		{
			name: "nothing to take", within: "process",
			in:   `{"process": {"capabilities": {"bounding": ["CAP_KILL"]}} }`,
			want: `{"process": {"capabilities": {"bounding": ["CAP_KILL"]}} }`,
		},
		{name: "no capabilities", in: `{ "args": [] }`, want: `{ "args": [] }`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			statusFile, file := filepath.Join(dir, "status"), filepath.Join(dir, "config.json")
			write(t, statusFile, status)
			write(t, file, tc.in)
			lacks, err := missing(statusFile)
			if err != nil {
				t.Fatal(err)
			}
			if err := fit(file, tc.within, lacks); err != nil {
				t.Fatal(err)
			}
			if got, _ := os.ReadFile(file); string(got) != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestRequest(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		args         []string
		file, within string
	}{
		{[]string{"--root", "/run", "--log-format", "json", "create", "--bundle", "/b", "--pid-file", "/p", "id"}, "/b/config.json", "process"},
		{[]string{"create", "-b=/b", "id"}, "/b/config.json", "process"},
		{[]string{"--root", "/run", "exec", "--process", "/tmp/p", "--detach", "id"}, "/tmp/p", ""},
		{[]string{"exec", "id", "sh"}, "", ""},
		{[]string{"kill", "id", "9"}, "", ""},
	} {
		if file, within := request(tc.args); file != tc.file || within != tc.within {
			t.Errorf("%v: got %q %q", tc.args, file, within)
		}
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}
