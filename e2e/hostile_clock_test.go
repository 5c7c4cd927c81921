package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sealane/sealane/api/v1alpha1"
)

// offClock builds the agent with a standard library in which every reading of the
// clock is wrong by as many seconds as the variable CLOCK_OFF_SECONDS says, and
// returns the program's name. All else is the agent as it is.
func offClock(t testing.TB) (program string) {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	lib, dir := filepath.Join(strings.TrimSpace(string(root)), "src", "time"), t.TempDir()
	source, err := os.ReadFile(filepath.Join(lib, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	const read = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if strings.Count(string(source), read) != 1 {
		t.Fatal("time.Now is another in this version of Go: adapt this test")
	}
	overlay := map[string]string{
		"time.go": strings.Replace(string(source), read, read+"\tsec += clockOff\n", 1),
		"clockoff.go": `package time

import "syscall"

var clockOff = func() (seconds int64) {
	v, _ := syscall.Getenv("CLOCK_OFF_SECONDS")
	sign := int64(1)
	for _, c := range []byte(v) {
		if c == '-' {
			sign = -1
		} else {
			seconds = seconds*10 + int64(c-'0')
		}
	}
	return sign * seconds
}()
`,
	}
	replace := map[string]string{}
	for name, text := range overlay {
		replace[filepath.Join(lib, name)] = filepath.Join(dir, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), list, 0o600); err != nil {
		t.Fatal(err)
	}
	program = "sealane-agent-with-a-wrong-clock"
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", filepath.Join(binaries, program), "./cmd/sealane-agent")
	build.Dir = ".."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v\n%s", err, out)
	}
	return program
}

// TestHostileClock runs members whose clock is a year off, in both directions, one
// that accepts a link and one that dials it: it serves its applications, has no
// session and no link, and says why; nobody else is disturbed; and when its clock is
// right it is back by itself, with everything that was stored meanwhile.
func TestHostileClock(t *testing.T) {
	t.Parallel()
	program := offClock(t)
	f := newFederation(t)
	f.join("berlin", "tokyo")
	f.joinDialing("oslo")
	world := topology([]v1alpha1.LinkRule{{Name: "edges", Type: v1alpha1.LinkEdges, Edges: []v1alpha1.Edge{
		{A: "berlin", B: "oslo"}, {A: "berlin", B: "tokyo"},
	}}}, "berlin", "oslo", "tokyo")
	orders := stream("orders", v1alpha1.StreamSpec{Placement: at("berlin", "oslo"), Subjects: []string{"orders.>"}})
	bridge := streamBridge("orders", at("berlin", "oslo"), at("tokyo"), "orders", "all")
	f.create(world, orders, bridge)
	f.ready(world, orders, bridge)
	tokyo := f.connect("tokyo", "app")
	counts := map[string]int{}
	writers := map[string]*writer{}
	for _, name := range []string{"berlin", "oslo"} {
		writers[name] = &writer{subject: "orders.new", origin: name}
	}
	write := func(name string) {
		t.Helper()
		nc := f.connect(name, "app")
		defer nc.Close()
		for range 10 {
			if err := writers[name].write(t.Context(), nc); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
		counts[name] += 10
	}
	arrives := func() {
		t.Helper()
		eventually(t, 60*time.Second, "everything is at tokyo", func() error { return holds(t.Context(), tokyo, "all", counts) })
	}
	write("berlin")
	write("oslo")
	arrives()

	const year = 365 * 24 * time.Hour
	for _, c := range []struct {
		name, peer string // peer has a link to it
		off        time.Duration
		says       string
	}{
		{"oslo", "berlin", year, "has expired or is not yet valid"},
		{"berlin", "tokyo", -year, "has expired or is not yet valid"},
		{"oslo", "berlin", -year, "has expired or is not yet valid"},
		{"berlin", "tokyo", year, "has expired or is not yet valid"},
	} {
		m, what := f.members[c.name], fmt.Sprintf("%s, %v off", c.name, c.off)
		before := len(m.logged())
		m.stop()
		m.process.name, m.env = program, []string{fmt.Sprintf("CLOCK_OFF_SECONDS=%d", int64(c.off.Seconds()))}
		m.restart()
		write(c.name)
		f.linkState(c.peer, c.name, v1alpha1.LinkDown)
		f.wait(&v1alpha1.MemberCluster{ObjectMeta: metav1.ObjectMeta{Name: c.name}}, v1alpha1.ConditionConnected, metav1.ConditionFalse)
		eventually(t, 60*time.Second, what+": it says why", func() error {
			if said := m.logged()[before:]; !strings.Contains(said, c.says) || !strings.Contains(said, "is the clock of this machine right?") {
				return errors.New("it does not")
			}
			return nil
		})
		f.connected(c.peer)

		m.stop()
		m.process.name, m.env = "sealane-agent", nil
		m.restart()
		f.connected(c.name)
		f.linkState(c.peer, c.name, v1alpha1.LinkUp)
		arrives()
		write(c.name)
		arrives()
		// It takes changes, whose claims are of an earlier time than those before.
		account := "more-" + random(6)
		eventually(t, 30*time.Second, "the topology is changed", func() error {
			if err := f.kube.Get(t.Context(), client.ObjectKeyFromObject(world), world); err != nil {
				return err
			}
			world.Spec.Accounts = append(world.Spec.Accounts, v1alpha1.Account{Name: account, Namespaces: []string{"*"}})
			return f.kube.Update(t.Context(), world)
		})
		f.connect(c.name, account)
	}
	f.ready(world, orders, bridge)
}
