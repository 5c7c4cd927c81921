//go:build e2e

package kind

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	federationv1 "github.com/sealane/sealane/api/federation/v1"
	"github.com/sealane/sealane/e2e/kind/lab"
)

const embeddedHub = `
apiVersion: v1
kind: Service
metadata: {name: hub, namespace: lab}
spec:
  type: NodePort
  selector: {app: hub}
  ports: [{port: 7443, nodePort: 30943}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: hub, namespace: lab}
spec:
  serviceName: hub
  selector: {matchLabels: {app: hub}}
  template:
    metadata: {labels: {app: hub}}
    spec:
      terminationGracePeriodSeconds: 5
      securityContext: {fsGroup: 65532}
      containers:
      - name: hub
        image: %[1]s
        imagePullPolicy: Never
        args: [--embedded, --data=/data, --listen=:7443, "--advertise=%[2]s:30943"]
        securityContext: {runAsNonRoot: true, readOnlyRootFilesystem: true}
        readinessProbe: {tcpSocket: {port: 7443}, periodSeconds: 1}
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 64Mi}}
`

const embeddedAgent = `
apiVersion: v1
kind: Pod
metadata: {name: agent, namespace: lab}
spec:
  restartPolicy: Never
  containers:
  - name: agent
    image: %[1]s
    imagePullPolicy: Never
    args: [--name=lab, "--hub=%[2]s:30943", "--token=%[3]s", --data=/data]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, emptyDir: {}}]
`

// TestLab checks what the other tests take for granted: images that were loaded,
// volumes that outlive pods, DNS, and one cluster's node ports from this machine
// and from the pods of another.
func TestLab(t *testing.T) {
	images := present(t).images
	images["sealane-hub"] = withAPI(t)
	load(t, images["sealane-hub"], hub)
	load(t, images["sealane-agent"], berlin, tokyo)
	apply(t, hub, "lab", fmt.Sprintf(embeddedHub, images["sealane-hub"].ref, hub.Node()))
	kubectl(t, hub, "-n", "lab", "rollout", "status", "statefulset/hub", "--timeout=180s")
	before := authorityAt(t, hub.IP+":30943")
	kubectl(t, hub, "-n", "lab", "delete", "pod", "hub-0")
	kubectl(t, hub, "-n", "lab", "rollout", "status", "statefulset/hub", "--timeout=180s")
	if after := authorityAt(t, hub.IP+":30943"); after != before {
		t.Error("the hub has another authority after its pod was deleted: the volume was lost")
	}
	// A made-up token, refused by the hub: the pod has reached it by the node's name.
	token := federationv1.JoinToken{Name: "t-made-up", Secret: make([]byte, 32), Authority: before}
	for _, c := range []*lab.Cluster{berlin, tokyo} {
		apply(t, c, "lab", fmt.Sprintf(embeddedAgent, images["sealane-agent"].ref, hub.Node(), token.String()))
		eventually(t, 2*time.Minute, "a pod in "+c.Name+" reaches the hub in another cluster", func() error {
			log, err := c.Kubectl(t.Context(), nil, "-n", "lab", "logs", "agent")
			if err == nil && !strings.Contains(log, "unknown join token") {
				err = errors.New(log)
			}
			return err
		})
	}
	for _, c := range []*lab.Cluster{hub, berlin, tokyo} {
		kubectl(t, c, "delete", "namespace", "lab", "--wait=false")
	}
}

// withAPI makes an image of the hub of `make build`, which has an API server of its
// own: that of `make images` has none.
func withAPI(t testing.TB) image {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "go", "run", "./images", "--platform", "linux/"+runtime.GOARCH,
		"--binaries", "bin", "--out", filepath.Join(dir, "bin/images"), "--version", "with-api")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return imagesIn(t, dir)["sealane-hub"]
}

// authorityAt asks a hub for the hash of its authority, as an agent does.
func authorityAt(t testing.TB, address string) (hash [sha256.Size]byte) {
	t.Helper()
	eventually(t, time.Minute, "a hub answers at "+address, func() error {
		// Nothing is trusted: the authority is what is asked for.
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}}}
		c, err := d.DialContext(t.Context(), "tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		chain := c.(*tls.Conn).ConnectionState().PeerCertificates
		hash = sha256.Sum256(chain[len(chain)-1].Raw)
		return nil
	})
	return hash
}

// apply creates the namespace if it is not there, and applies manifests.
func apply(t testing.TB, c *lab.Cluster, namespace, manifests string) {
	t.Helper()
	all := "apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}\n---\n" + manifests
	if _, err := c.Kubectl(t.Context(), strings.NewReader(all), "apply", "-f", "-"); err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
}

func kubectl(t testing.TB, c *lab.Cluster, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), nil, args...)
	if err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
	return out
}

// eventually polls until try succeeds; it fails the test with try's last error.
func eventually(t testing.TB, within time.Duration, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not within %v: %s: %v", within, what, err)
		}
	}
}
