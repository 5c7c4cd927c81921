//go:build e2e

package kind

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sealane/sealane/e2e/kind/lab"
)

// upgraded brings the hub and then the members, one after the other, from the
// commit before to this one, while messages flow over bridges of both durable
// kinds. Without such a commit all get the same image under another name.
func upgraded(t *testing.T, f *federation, p plan) {
	end := f.load(t)
	f.checkMoves(t, func() {
		to := present(t)
		if f.runs.dir != to.dir {
			f.bring(t, to)
		} else {
			to.images = renamed(t, to.images)
		}
		f.runs = to
		f.installHub(t)
		eventually(t, 5*time.Minute, "every replica of the hub is the new one", func() error {
			return allRun(t, hub, to.images["sealane-hub"].ref, 2)
		})
		p.ready(t, f)
		for c, servers := range map[*lab.Cluster]int{berlin: 3, tokyo: 1} {
			f.installAgent(t, c)
			eventually(t, 10*time.Minute, "agent and servers of "+c.Name+" are the new ones", func() error {
				return allRun(t, c, to.images["sealane-agent"].ref, servers+1)
			})
			rolledOut(t, c)
			p.ready(t, f)
		}
		f.members["edge"].(*onMachine).become(to.program("sealane-agent"))
		f.settled = time.Now()
	})
	p.ready(t, f)
	f.checkCopies(t, "orders", end(), everywhere...)
	f.checkEvents(t)
}

// renamed gives images that the clusters have further names.
func renamed(t testing.TB, images map[string]image) map[string]image {
	t.Helper()
	next := map[string]image{}
	for program, i := range images {
		next[program] = image{archive: i.archive, ref: i.ref + "-next"}
	}
	for c, program := range map[*lab.Cluster]string{hub: "sealane-hub", berlin: "sealane-agent", tokyo: "sealane-agent"} {
		if err := c.Tag(t.Context(), "docker.io/"+images[program].ref, "docker.io/"+next[program].ref); err != nil {
			t.Fatal(err)
		}
	}
	return next
}

// allRun says whether the cluster has that many pods of ours and all run an image.
func allRun(t testing.TB, c *lab.Cluster, ref string, pods int) error {
	t.Helper()
	images := strings.Fields(kubectl(t, c, "-n", system, "get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].image}"))
	n := 0
	for _, i := range images {
		if i == ref {
			n++
		}
	}
	if n != pods || n != len(images) {
		return fmt.Errorf("%d of %d pods run %s: %v", n, pods, ref, images)
	}
	return nil
}
